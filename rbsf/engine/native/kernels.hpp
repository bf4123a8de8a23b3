// The functions that an instruction set must provide, and the loops over tiles that all sets share.
//
// Binary convolution counts the bits in which a window differs from a filter. There are two ways.
//
// By words (BitsRow). A window is a sequence of 64-bit words x_0 .. x_n, a filter a sequence of
// words w_0 .. w_n, and the result is popcount(x ^ w). Both are stored as running parities
// X_t = x_0 ^ ... ^ x_t, because then each parity of the difference takes one XOR: D_t = X_t ^ W_t.
// A carry-save adder adds the words t and t + 1 to the parity D_{t-1}. It gives the parity D_{t+1}
// and the carry (D_t ? ~D_{t+1} : D_{t-1}); each bit of the carry counts 2:
//     popcount(x ^ w) = 2 * sum over pairs of popcount(carry) + popcount(D_last)
// So two words cost two XORs, one selection, one popcount and one sum. Without the adder they would
// cost two XORs, two popcounts and two sums. Filters are in blocks of 8: a line of 64 bytes holds
// the same word of all 8 filters.
//
// By tables (NibblesRow), where there is no instruction for popcounts but one that looks up 32
// bytes in a table of 16. 4 bits of a window choose the table, which has the count for each value
// of 4 bits of a filter. So 4 bits of 32 filters cost one lookup and one sum.

#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

// Put before a loop over a tile: unrolls it, so that the tile's sums stay in registers.
#if defined(__clang__)
#define RBSF_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define RBSF_UNROLL _Pragma("GCC unroll 16")
#else
#define RBSF_UNROLL
#endif

// Put before a loop without a constant end, to do 4 steps between two tests of the end.
#if defined(__clang__)
#define RBSF_UNROLL_4 _Pragma("unroll 4")
#elif defined(__GNUC__)
#define RBSF_UNROLL_4 _Pragma("GCC unroll 4")
#else
#define RBSF_UNROLL_4
#endif

// Put before a loop in which each iteration only reads and writes its own place; its arrays may be
// the same one.
#if defined(__clang__)
#define RBSF_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define RBSF_INDEPENDENT _Pragma("GCC ivdep")
#else
#define RBSF_INDEPENDENT
#endif

// Put after a load of what is used several times; GCC would load it at each use otherwise.
#if defined(__GNUC__)
#define RBSF_IN_REGISTER(vector) asm("" : "+x"(vector))
#else
#define RBSF_IN_REGISTER(vector) static_cast<void>(vector)
#endif

// Prefetch a place that will soon be written.
#if defined(__GNUC__)
#define RBSF_PREFETCH(place) __builtin_prefetch(place, 1)
#else
#define RBSF_PREFETCH(place) static_cast<void>(place)
#endif

namespace rbsf {

struct alignas(64) Line {
    uint64_t word[8];
};

// One output row of a binary convolution, for the filters of one group.
struct BitsRow {
    // Running parities: if the number of words is odd, first [pixels] of the first word; then
    // [pairs][pixels][2].
    const uint64_t* windows;
    size_t pixels, words;
    const Line* weights;  // [blocks][words], running parities
    size_t blocks;        // blocks of 8 filters
    const Line* limits;   // [blocks]: an output bit is count <= limit
    uint8_t* const* out;  // [blocks]: the place for the bits of the first pixel
    size_t out_step;      // bytes from one pixel of `out` to the next
    int32_t* counts;      // if not null, counts [blocks][pixels][8] are written instead of bits
};

// A byte counts up to 4 bits of each of so many nibbles.
constexpr size_t MOST_NIBBLES = 63;

// A part of a binary convolution by tables: one output row, and `run` nibbles in a row of each
// window, at most MOST_NIBBLES. The counts are added to `sums`, which have to fit int16.
struct NibblesRow {
    const uint8_t* map;  // the first window's run; a byte is 16 times the value of a nibble
    size_t pixels, pixel_step;
    size_t run;
    const uint8_t* weights;  // the run's nibbles, [run][32] in the order of nibble_place
    size_t blocks;           // blocks of 32 filters
    size_t block_step;       // bytes from one block's weights to the next
    Line* sums;              // [pixels][blocks], 2 x 16 int16 in that order
};

// The sums of all runs of an output row, to be written as bits or as counts.
struct NibblesSums {
    const Line* sums;  // as above
    size_t pixels, blocks;
    const Line* limits;   // [blocks], as the sums: an output bit is count <= limit
    size_t eights;        // blocks of 8 filters that are written
    uint8_t* const* out;  // [eights], as above
    size_t out_step;
    int32_t* counts;  // if not null, counts [eights][pixels][8] are written instead of bits
};

// The byte of a filter among 32: every second byte holds a filter of blocks 0 and 2 of 8 filters,
// the bytes between them hold those of blocks 1 and 3. So sums of 8 bits are widened without being
// moved.
inline size_t nibble_place(size_t filter) {
    const size_t block = filter / 8;
    return block / 2 * 16 + filter % 8 * 2 + block % 2;
}

// One output row of the first convolution.
struct PixelsRow {
    const uint8_t* image;  // the first window's corner; 3 bytes after the last window are readable
    size_t pixels, pixel_step;
    const size_t* offsets;  // [lines]: the place of every 4 bytes of a window
    size_t lines;
    // The number of lines at the start that form pairs: the sum of 4 products, 2 from each line of
    // a pair, fits 16 bits.
    size_t paired;
    const Line* weights;  // [blocks][lines], int8: 16 filters x 4 bytes per line
    size_t blocks;        // blocks of 16 filters
    const Line* limits;   // [blocks], 16 int32: an output bit is sum >= limit
    uint8_t* const* out;  // [2 * blocks], as above
    size_t out_step;
};

// Neighbouring windows of uint8 pixels or of bits spread to bytes 0 and 1, times int8 weights.
struct BytesRow {
    const uint8_t* windows;     // the first window's corner; 64 bytes after the last are readable
    size_t pixels, pixel_step;  // pixels: a multiple of 32
    const size_t* offsets;      // [chunks]: the place of every chunk of a window
    size_t chunks, chunk_lines;
    const Line* weights;  // [blocks][chunks][2][chunk_lines], 16 filters x 4 bytes per line
    size_t blocks;        // blocks of 32 filters
    const Line* limits;   // [blocks][2], 16 int32: an output bit is sum >= limit
    uint8_t* const* out;  // [4 * blocks], as above
    size_t out_step;
};

struct Kernels {
    const char* name;
    bool (*available)();
    void (*bits)(const BitsRow&);
    void (*pixels)(const PixelsRow&);
    // The next five may be null. `nibbles` and `put_nibbles` replace `bits` where counts fit int16.
    // `bytes` is for pixels, and for convolutions that write bits with stride 1.
    void (*nibbles)(const NibblesRow&) = nullptr;
    void (*put_nibbles)(const NibblesSums&) = nullptr;
    void (*bytes)(const BytesRow&) = nullptr;
    // Spreads bits to bytes 0 and 1.
    void (*spread)(const uint8_t* bits, size_t bytes, uint8_t* to) = nullptr;
    // Spreads bits to bytes -1 and 1.
    void (*signs)(const uint64_t* bits, size_t lines, Line* to) = nullptr;
};

inline uint64_t load64(const void* from) {
    uint64_t value;
    std::memcpy(&value, from, 8);
    return value;
}

inline uint32_t load32(const void* from) {
    uint32_t value;
    std::memcpy(&value, from, 4);
    return value;
}

// Call use(first, count) for pieces of `size` things: of at most `most`, and of about equal size.
template <class Use>
void each_piece(size_t size, size_t most, const Use& use) {
    for (size_t left = (size + most - 1) / most, first = 0; left > 0; --left) {
        const size_t count = (size - first + left - 1) / left;
        use(first, count);
        first += count;
    }
}

template <class Row>
using Tile = void (*)(const Row&, size_t block, size_t pixel);

// Cover a row's pixels x blocks with tiles of about equal size, each of at most P x B and of at
// most `SUMS` sums; tiles[(p - 1) * B + b - 1] computes p x b.
template <int P, int B, int SUMS = P * B, class Row>
void cover(const Row& row, const std::array<Tile<Row>, P * B>& tiles) {
    each_piece(row.blocks, B, [&](size_t block, size_t b) {
        each_piece(row.pixels, std::min<size_t>(P, SUMS / b),
                   [&](size_t pixel, size_t p) { tiles[(p - 1) * B + b - 1](row, block, pixel); });
    });
}

template <class Isa, size_t... I>
void bits_tiles(const BitsRow& row, std::index_sequence<I...>) {
    static const std::array<Tile<BitsRow>, sizeof...(I)> tiles{&Isa::template bits<I + 1>...};
    cover<Isa::PIXELS, 1>(row, tiles);
}

template <class Isa, int P, int B>
constexpr Tile<NibblesRow> nibbles_tile() {
    if constexpr (P * B <= Isa::NIBBLE_SUMS)
        return &Isa::template nibbles<P, B>;
    else
        return nullptr;  // `cover` does not use it
}

template <class Isa, size_t... I>
void nibbles_tiles(const NibblesRow& row, std::index_sequence<I...>) {
    constexpr int B = Isa::NIBBLE_BLOCKS;
    static const std::array<Tile<NibblesRow>, sizeof...(I)> tiles{
        nibbles_tile<Isa, I / B + 1, I % B + 1>()...};
    cover<Isa::NIBBLE_PIXELS, B, Isa::NIBBLE_SUMS>(row, tiles);
}

template <class Isa, size_t... I>
void pixels_tiles(const PixelsRow& row, std::index_sequence<I...>) {
    constexpr int B = Isa::U8_BLOCKS;
    static const std::array<Tile<PixelsRow>, sizeof...(I)> tiles{
        &Isa::template pixels<I / B + 1, I % B + 1>...};
    cover<Isa::U8_PIXELS, B>(row, tiles);
}

template <class Isa>
void bits_row(const BitsRow& row) {
    bits_tiles<Isa>(row, std::make_index_sequence<Isa::PIXELS>());
}

template <class Isa>
void nibbles_row(const NibblesRow& row) {
    nibbles_tiles<Isa>(row, std::make_index_sequence<Isa::NIBBLE_PIXELS * Isa::NIBBLE_BLOCKS>());
}

template <class Isa>
void pixels_row(const PixelsRow& row) {
    pixels_tiles<Isa>(row, std::make_index_sequence<Isa::U8_PIXELS * Isa::U8_BLOCKS>());
}

template <class Isa>
constexpr Kernels kernels(const char* name) {
    return {name, &Isa::available, &bits_row<Isa>, &pixels_row<Isa>};
}

}  // namespace rbsf
