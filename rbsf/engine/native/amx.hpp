// AMX: convolutions that write bits, as 8-bit matrix products of 16 pixels x 16 filters. For this,
// bits are spread to bytes.
//
// Convolutions with strides, and those that write numbers, use AVX-512: the sums of the latter
// would have to be stored and read again.

#pragma once

#include <algorithm>

#include "avx512.hpp"
#include "geometry.hpp"

#if defined(__linux__) && defined(__x86_64__) && \
    (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define RBSF_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>

#define RBSF_AMX __attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512vl")))

namespace rbsf {

struct Amx : Avx512 {
    static bool available() {
        static const bool granted = cpu_has_avx512() &&
                                    has(cpuid(7)[3], {24, 25}) &&  // AMX-TILE, AMX-INT8
                                    has(saved_states(), {17, 18}) && request_tiles();
        return granted;
    }

    // Linux lets a program use the 8 kB of tile registers only on request.
    static bool request_tiles() {
        constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
        return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
    }

    // Spread bits to bytes 0 and 1.
    RBSF_AMX static void spread(const uint8_t* bits, size_t bytes, uint8_t* to) {
        const __m512i one = _mm512_set1_epi8(1);
        for (; bytes >= 8; bytes -= 8, bits += 8, to += 64)
            _mm512_storeu_si512(to, _mm512_maskz_mov_epi8(load64(bits), one));
        for (; bytes > 0; --bytes, ++bits)
            for (int i = 0; i < 8; ++i) *to++ = *bits >> i & 1;
    }

    // Spread bits to bytes -1 and 1.
    RBSF_AMX static void signs(const uint64_t* bits, size_t lines, Line* to) {
        const __m512i one = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1);
        for (size_t i = 0; i < lines; ++i)
            _mm512_store_si512(to + i, _mm512_mask_blend_epi8(bits[i], minus, one));
    }

    // The number of rows, and of bytes per row, of each tile.
    struct alignas(64) Config {
        uint8_t palette = 1, start = 0, unused[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    };

    RBSF_AMX static void bytes(const BytesRow& row) {
        Config config;
        for (int tile = 0; tile < 8; ++tile) {
            config.row_bytes[tile] =
                static_cast<uint16_t>(tile == 4 || tile == 5 ? 4 * row.chunk_lines : 64);
            config.rows[tile] = static_cast<uint8_t>(tile < 6 ? 16 : row.chunk_lines);
        }
        // GCC assumes that _tile_loadconfig reads only 8 bytes; this makes it store all of them.
        __asm__ volatile("" : : "r"(&config) : "memory");
        _tile_loadconfig(&config);
        multiply(row);
        _tile_release();
    }

  private:
    // The weights of this many chunks for 32 filters take 40 kB, which fit the first-level cache.
    static constexpr size_t MOST_CHUNKS = 20;

    // Work on squares of 32 pixels x 32 filters: all pixels for a block of filters, then the next
    // block. If the weights of a block do not fit the first-level cache, they are processed in
    // parts, and the sums are kept between parts. The sums of a square are compared while the
    // products of the next square are computed.
    RBSF_AMX static void multiply(const BytesRow& row) {
        const size_t parts = (row.chunks + MOST_CHUNKS - 1) / MOST_CHUNKS,
                     most = (row.chunks + parts - 1) / parts;
        Line done[64], *kept = Scratch::grow(Scratch::mine().sums, parts > 1 ? 2 * row.pixels : 0);
        size_t left = 0, last_block = 0, last_pixel = 0;  // quarters of a square still to compare
        for (size_t block = 0; block < row.blocks; ++block)
            for (size_t first = 0, end; first < row.chunks; first = end) {
                end = std::min(first + most, row.chunks);
                for (size_t pixel = 0; pixel < row.pixels; pixel += 32) {
                    take_sums(first > 0 ? kept + 2 * pixel : nullptr);
                    for (size_t i = first; i < end; ++i) {
                        add_chunk(row, block, pixel, i);
                        if (left > 0) compare(row, last_block, last_pixel, --left, done);
                    }
                    while (left > 0) compare(row, last_block, last_pixel, --left, done);
                    store_sums(end < row.chunks ? kept + 2 * pixel : done);
                    if (end == row.chunks) left = 4, last_block = block, last_pixel = pixel;
                }
            }
        while (left > 0) compare(row, last_block, last_pixel, --left, done);
    }

    // Tiles 0 to 3 hold sums, 4 and 5 pixels, 6 and 7 weights.
    RBSF_AMX static void add_chunk(const BytesRow& row, size_t block, size_t pixel, size_t i) {
        const uint8_t* from = row.windows + pixel * row.pixel_step + row.offsets[i];
        const Line* weights = row.weights + 2 * (block * row.chunks + i) * row.chunk_lines;
        _tile_loadd(4, from, row.pixel_step);
        _tile_loadd(6, weights, 64);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(7, weights + row.chunk_lines, 64);
        _tile_dpbusd(1, 4, 7);
        _tile_loadd(5, from + 16 * row.pixel_step, row.pixel_step);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }

    RBSF_AMX static void take_sums(const Line* from) {
        if (from) {
            _tile_loadd(0, from, 64);
            _tile_loadd(1, from + 16, 64);
            _tile_loadd(2, from + 32, 64);
            _tile_loadd(3, from + 48, 64);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
    }

    RBSF_AMX static void store_sums(Line* to) {
        _tile_stored(0, to, 64);
        _tile_stored(1, to + 16, 64);
        _tile_stored(2, to + 32, 64);
        _tile_stored(3, to + 48, 64);
    }

    // Write the bits of a quarter of a square: 16 pixels x 16 filters.
    RBSF_AMX static void compare(const BytesRow& row, size_t block, size_t pixel, size_t quarter,
                                 const Line* sums) {
        const size_t half = 2 * block + quarter % 2;
        const __m512i limit = _mm512_load_si512(row.limits + half);
        pixel += quarter / 2 * 16;
        sums += quarter * 16;
        uint8_t *low = row.out[2 * half] + pixel * row.out_step,
                *high = row.out[2 * half + 1] + pixel * row.out_step;
        const bool together = high == low + 1;
        for (int p = 0; p < 16; ++p, low += row.out_step, high += row.out_step) {
            const __mmask16 bits = _mm512_cmpge_epi32_mask(_mm512_load_si512(sums + p), limit);
            if (together) {
                std::memcpy(low, &bits, 2);
            } else {
                *low = static_cast<uint8_t>(bits);
                *high = static_cast<uint8_t>(bits >> 8);
            }
        }
    }
};

}  // namespace rbsf
#endif
