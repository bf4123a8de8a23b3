// A convolution and the steps up to the next layer: thresholds, packing, pooling. It works in bands
// of rows.
//
// Maps of bits are [N, planes, H, W, bytes]. A plane holds the channels of one group of the layer
// that reads it, so that a row of a window is one run of bytes. A map includes the padding that its
// reader needs. The caller decides the place of each channel (bit_layout.py), and passes weights in
// the order of the bytes.

#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "geometry.hpp"
#include "kernels.hpp"
#include "weights.hpp"

namespace rbsf {

class Conv {
  public:
    const Geometry g;

    // weights [8 * blocks][kernel * kernel * bytes], thresholds [8 * blocks]; scale and bias
    // [outputs] for a real output, else empty. `group_blocks` is the number of blocks of 8 filters
    // in each group; `nibbles` and `bytes` say whether kernels of this machine take those.
    Conv(const Geometry& geometry, const uint8_t* weights, const int32_t* thresholds,
         const std::vector<size_t>& group_blocks, std::vector<Place> places,
         std::vector<float> scale, std::vector<float> bias, bool nibbles, bool bytes)
        : g(geometry), places(std::move(places)), scale(std::move(scale)), bias(std::move(bias)) {
        for (size_t count : group_blocks) first_block.push_back(first_block.back() + count);
        if (g.pixels)
            of_pixels = PixelWeights(g, blocks(), weights, thresholds);
        else
            of_bits = BitWeights(g, blocks(), weights, thresholds);
        if (nibbles && takes_nibbles())
            of_nibbles = NibbleWeights(g, first_block, weights, thresholds);
        if (bytes && takes_bytes()) of_bytes = ByteWeights(g, first_block, weights, thresholds);
    }

    // Compute output rows `first` to `last` - 1 of one image. `height` and `width` are those of the
    // input map with its margin.
    void rows(const Kernels& isa, const uint8_t* in, size_t height, size_t width, void* out,
              size_t first, size_t last) const {
        const Size size = size_of(isa, height, width);
        if (g.output == Output::bits)
            return each_band(size, first, last, [&](size_t from, size_t to, size_t most) {
                bits_band(isa, in, size, from, to, from > first, most, static_cast<uint8_t*>(out));
            });
        each_count(isa, in, height, width, first, last,
                   [&](const int32_t* counts, size_t c, size_t y) {
                       switch (g.output) {
                           case Output::real:
                               put_real(counts, c, size, y, static_cast<float*>(out));
                               break;
                           case Output::sums16:
                               put_sums(counts, c, size, y, static_cast<int16_t*>(out));
                               break;
                           case Output::sums8:
                               put_sums(counts, c, size, y, static_cast<int8_t*>(out));
                               break;
                           default:
                               put_sums(counts, c, size, y, static_cast<int32_t*>(out));
                       }
                   });
    }

    // Call put(counts, c, y) for the channels c to after(c) - 1 of each row from `first` to `last`
    // - 1. `counts` [pixels][8] are the numbers of products that are -1.
    template <class Put>
    void each_count(const Kernels& isa, const uint8_t* in, size_t height, size_t width,
                    size_t first, size_t last, const Put& put) const {
        const Size size = size_of(isa, height, width);
        const size_t step = 8 * size.pitch;
        each_band(size, first, last, [&](size_t from, size_t to, size_t) {
            int32_t* counts = Scratch::grow(Scratch::mine().counts, (to - from) * blocks() * step);
            convolve(isa, in, size, from, to - from, {nullptr, 0, counts});
            for (size_t c = 0; c < g.outputs; c = after(c)) {
                const size_t block = first_block[c / this->width()] + c % this->width() / 8;
                for (size_t y = from; y < to; ++y)
                    put(counts + ((y - from) * blocks() + block) * step, c, y);
            }
        });
    }

    // The first channel of the block after that of channel c.
    size_t after(size_t c) const { return std::min(c + 8, (c / width() + 1) * width()); }

  private:
    struct Size {
        size_t height, width, conv_width, out_height, out_width;
        bool flat;     // rows are one long row, including windows across the map's right end
        size_t pitch;  // computed pixels per row
    };

    // The target of a band's results: bits of plane p at bits + p * plane_step, or else counts.
    struct Band {
        uint8_t* bits;
        size_t plane_step;
        int32_t* counts;  // [rows][blocks][pitch][8]
    };

    std::vector<size_t> first_block{0};  // the first block of each group, and the end
    std::vector<Place> places;
    std::vector<float> scale, bias;
    BitWeights of_bits;
    NibbleWeights of_nibbles;
    PixelWeights of_pixels;
    ByteWeights of_bytes;

    size_t blocks() const { return first_block.back(); }
    bool takes_nibbles() const { return !g.pixels && g.products < (1 << 15); }
    bool takes_bytes() const { return g.pixels || (g.stride == 1 && g.output == Output::bits); }

    Size size_of(const Kernels& isa, size_t height, size_t width) const {
        const size_t conv_width = g.conv_size(width);
        const bool flat = !g.pixels && isa.bytes && takes_bytes();
        const size_t pitch = flat ? width : g.pixels ? (conv_width + 31) / 32 * 32 : conv_width;
        return {height, width, conv_width, g.output_size(height), g.output_size(width),
                flat,   pitch};
    }

    // Call work(from, to, most) for bands of at most `most` rows, so that their results stay in the
    // cache. Bands of flat rows are larger, since each band wastes up to 31 pixels and spreads
    // kernel - 1 rows again.
    template <class Work>
    void each_band(const Size& size, size_t first, size_t last, const Work& work) const {
        const size_t most =
            std::max<size_t>(1, (size.flat ? 2048 : 256) / size.pitch / (g.pool ? 2 : 1));
        const size_t bands = (last - first + most - 1) / most,
                     step = bands ? (last - first + bands - 1) / bands : 1;
        for (size_t from = first; from < last; from += step)
            work(from, std::min(last, from + step), step);
    }

    // Compute rows y to y + count - 1 of the convolution.
    void convolve(const Kernels& isa, const uint8_t* in, const Size& size, size_t y, size_t count,
                  const Band& band) const {
        if (size.flat) return flat_rows(isa, in, size, y, count, band);
        Scratch& scratch = Scratch::mine();
        const size_t ends = (blocks() + 3) / 4 * 4, row_bytes = size.pitch * g.out_bytes;
        uint8_t** targets = Scratch::grow(scratch.out, ends);
        for (size_t i = blocks(); i < ends; ++i)
            targets[i] = Scratch::grow(scratch.unused, row_bytes);
        const uint8_t* nibbles =
            isa.nibbles && takes_nibbles() ? spread_nibbles(in, size, y, count) : nullptr;
        for (size_t row = 0; row < count; ++row) {
            int32_t* counts = band.counts ? band.counts + row * blocks() * 8 * size.pitch : nullptr;
            for (size_t i = 0; i < blocks() && band.bits; ++i)
                targets[i] = band.bits + row * row_bytes + places[i].plane * band.plane_step +
                             places[i].byte;
            if (g.pixels)
                pixels_row(isa, in, size, y + row, targets);
            else if (nibbles)
                nibbles_row(isa, nibbles, size, row, count, targets, counts);
            else
                filter_row(isa, in, size, y + row, targets, counts);
        }
    }

    void pixels_row(const Kernels& isa, const uint8_t* in, const Size& size, size_t y,
                    uint8_t** targets) const {
        // A copy of the image's rows, because the kernels read a little past the last window.
        const size_t row_step = size.width * g.bytes, length = g.kernel * row_step,
                     step = g.stride * g.bytes;
        uint8_t* image = Scratch::grow(Scratch::mine().image, length + 31 * step + 64);
        std::memcpy(image, in + y * g.stride * row_step, length);
        if (isa.bytes) {
            const size_t* offsets = chunk_offsets(row_step);
            return isa.bytes({image, size.pitch, step, offsets, of_bytes.chunks(g),
                              of_bytes.chunk_lines, of_bytes.lines.data(),
                              of_bytes.first_block.back(), of_bytes.limits.data(), targets,
                              g.out_bytes});
        }
        const size_t steps = g.row_lines(), lines = g.kernel * steps;
        size_t* offsets = Scratch::grow(Scratch::mine().offsets, lines);
        for (size_t i = 0; i < lines; ++i)
            offsets[i] = of_pixels.order[i] / steps * row_step + of_pixels.order[i] % steps * 4;
        isa.pixels({image, size.conv_width, step, offsets, lines, of_pixels.paired,
                    of_pixels.lines.data(), of_pixels.limits.size(), of_pixels.limits.data(),
                    targets, g.out_bytes});
    }

    const size_t* chunk_offsets(size_t row_step) const {
        const size_t chunks = of_bytes.row_chunks;
        size_t* offsets = Scratch::grow(Scratch::mine().offsets, of_bytes.chunks(g));
        for (size_t i = 0; i < of_bytes.chunks(g); ++i)
            offsets[i] = i / chunks * row_step + i % chunks * 4 * of_bytes.chunk_lines;
        return offsets;
    }

    // Compute rows of bits, spread to bytes, as one long row, including windows across row ends.
    void flat_rows(const Kernels& isa, const uint8_t* in, const Size& size, size_t y, size_t count,
                   const Band& band) const {
        Scratch& scratch = Scratch::mine();
        const size_t row_bytes = size.width * g.bytes, length = (count + g.kernel - 1) * row_bytes;
        const size_t pixels = (count * size.pitch + 31) / 32 * 32,
                     behind = (g.kernel + 31) * g.bytes * 8 + 64;
        uint8_t* spread = reinterpret_cast<uint8_t*>(
            Scratch::grow(scratch.spread, (8 * length + behind) / 64 + 1));
        const size_t* offsets = chunk_offsets(8 * row_bytes);
        for (size_t group = 0; group < g.groups; ++group) {
            const size_t first = of_bytes.first_block[group], end = of_bytes.first_block[group + 1];
            uint8_t** targets = Scratch::grow(scratch.out, 4 * (end - first));
            for (size_t i = 0; i < 4 * (end - first); ++i) {
                const size_t block = first_block[group] + i;
                targets[i] =
                    block < first_block[group + 1]
                        ? band.bits + places[block].plane * band.plane_step + places[block].byte
                        : Scratch::grow(scratch.unused, pixels * g.out_bytes);
            }
            isa.spread(in + (group * size.height + y) * row_bytes, length, spread);
            isa.bytes({spread, pixels, 8 * g.bytes, offsets, of_bytes.chunks(g),
                       of_bytes.chunk_lines,
                       of_bytes.spread(g, isa) + first * of_bytes.block_lines(g), end - first,
                       of_bytes.limits.data() + 2 * first, targets, g.out_bytes});
        }
    }

    // The rows that `count` rows of windows from row y on need, each 4 bits as a byte, times 16:
    // [groups][rows][width][2 * bytes].
    const uint8_t* spread_nibbles(const uint8_t* in, const Size& size, size_t y,
                                  size_t count) const {
        const size_t length = input_rows(count) * size.width * g.bytes;
        uint8_t* to = Scratch::grow(Scratch::mine().nibbles, g.groups * 2 * length);
        for (size_t group = 0; group < g.groups; ++group) {
            const uint8_t* from = in + (group * size.height + y * g.stride) * size.width * g.bytes;
            uint8_t* next = to + group * 2 * length;
            RBSF_INDEPENDENT
            for (size_t i = 0; i < length; ++i) {
                next[2 * i] = static_cast<uint8_t>(from[i] << 4);
                next[2 * i + 1] = from[i] & 0xf0;
            }
        }
        return to;
    }

    size_t input_rows(size_t count) const { return (count - 1) * g.stride + g.kernel; }

    // Compute one of `count` rows of all groups from their nibbles, as filter_row does.
    void nibbles_row(const Kernels& isa, const uint8_t* nibbles, const Size& size, size_t row,
                     size_t count, uint8_t** targets, int32_t* counts) const {
        const size_t row_step = size.width * 2 * g.bytes, run = g.kernel * 2 * g.bytes,
                     pixels = size.conv_width;
        for (size_t group = 0; group < g.groups; ++group) {
            const size_t first = first_block[group], block = of_nibbles.first_block[group],
                         blocks = of_nibbles.first_block[group + 1] - block;
            Line* sums = Scratch::grow(Scratch::mine().sums, pixels * blocks);
            std::fill(sums, sums + pixels * blocks, Line{});
            const uint8_t* map = nibbles + (group * input_rows(count) + row * g.stride) * row_step;
            const uint8_t* weights = of_nibbles.of_group(g, group);
            for (size_t line = 0; line < g.kernel; ++line, map += row_step, weights += 32 * run)
                each_piece(run, MOST_NIBBLES, [&](size_t at, size_t some) {
                    isa.nibbles({map + at, pixels, g.stride * 2 * g.bytes, some, weights + 32 * at,
                                 blocks, 32 * g.kernel * run, sums});
                });
            isa.put_nibbles({sums, pixels, blocks, of_nibbles.limits.data() + block,
                             first_block[group + 1] - first, targets + first, g.out_bytes,
                             counts ? counts + 8 * first * pixels : nullptr});
        }
    }

    // Compute row y of all groups, as bits or as counts [blocks][conv_width][8].
    void filter_row(const Kernels& isa, const uint8_t* in, const Size& size, size_t y,
                    uint8_t** targets, int32_t* counts) const {
        const size_t words = g.words();
        uint64_t* windows = Scratch::grow(Scratch::mine().windows, size.conv_width * words);
        for (size_t group = 0; group < g.groups; ++group) {
            gather(in + group * size.height * size.width * g.bytes, size, y, windows);
            const size_t first = first_block[group];
            isa.bits({windows, size.conv_width, words, of_bits.lines.data() + first * words,
                      first_block[group + 1] - first, of_bits.limits.data() + first,
                      targets + first, g.out_bytes,
                      counts ? counts + 8 * first * size.conv_width : nullptr});
        }
    }

    // Collect the windows of row y as running parities, in the order of BitsRow.
    void gather(const uint8_t* plane, const Size& size, size_t y, uint64_t* to) const {
        const size_t width = size.conv_width, words = g.words(), row_step = size.width * g.bytes;
        const uint8_t* corner = plane + y * g.stride * row_step;
        const uint64_t none = 0, *parity = &none;
        size_t t = words & 1;
        if (t) {
            with_word(corner, row_step, 0, [=](auto word) {
                for (size_t x = 0; x < width; ++x) to[x] = word(x);
            });
            parity = to;
            to += width;
        }
        for (size_t parity_step = t; t < words; t += 2, to += 2 * width, parity_step = 2) {
            with_word(corner, row_step, t, [=](auto word) {
                for (size_t x = 0; x < width; ++x) to[2 * x] = word(x) ^ parity[x * parity_step];
            });
            with_word(corner, row_step, t + 1, [=](auto word) {
                for (size_t x = 0; x < width; ++x) to[2 * x + 1] = word(x) ^ to[2 * x];
            });
            parity = to + 1;
        }
    }

    // Call use(word), where word(x) is word t of the window at x of a row. No byte outside the
    // windows is read.
    template <class Use>
    void with_word(const uint8_t* corner, size_t row_step, size_t t, const Use& use) const {
        const size_t run = g.kernel * g.bytes, step = g.stride * g.bytes, row = 8 * t / run,
                     left = run - 8 * t % run;
        const uint8_t *end = corner + row * row_step + run, *next = end - run + row_step;
        if (left >= 8) return use([=](size_t x) { return load64(end - left + x * step); });
        if (run < 8)
            return use([=](size_t x) { return short_word(corner + x * step, row_step, t); });
        const size_t spare = 64 - 8 * left;
        if (row + 1 == g.kernel)
            return use([=](size_t x) { return load64(end - 8 + x * step) >> spare; });
        use([=](size_t x) {
            return load64(end - 8 + x * step) >> spare | load64(next + x * step) << (64 - spare);
        });
    }

    // Word t of a window with rows of less than 8 bytes.
    uint64_t short_word(const uint8_t* window, size_t row_step, size_t t) const {
        const size_t run = g.kernel * g.bytes, end = std::min(8 * t + 8, g.window_bytes());
        uint64_t word = 0;
        for (size_t i = 8 * t; i < end; ++i)
            word |= uint64_t{window[i / run * row_step + i % run]} << i % 8 * 8;
        return word;
    }

    size_t plane_bytes(const Size& size) const {
        return (size.out_height + 2 * g.margin) * (size.out_width + 2 * g.margin) * g.out_bytes;
    }
    uint8_t* map_row(uint8_t* map, const Size& size, size_t y) const {
        return map + ((y + g.margin) * (size.out_width + 2 * g.margin) + g.margin) * g.out_bytes;
    }

    // Compute output rows `from` to `to` - 1. With pooling, a band that continues the one before
    // reuses the last row of that band.
    void bits_band(const Kernels& isa, const uint8_t* in, const Size& size, size_t from, size_t to,
                   bool continues, size_t most, uint8_t* map) const {
        const size_t row_bytes = size.pitch * g.out_bytes, most_rows = g.pool ? 2 * most + 1 : most;
        const size_t plane = most_rows * row_bytes + 31 * g.out_bytes;
        uint8_t* bits = Scratch::grow(Scratch::mine().band, g.planes * plane);
        const size_t y = g.pool ? 2 * from : from, rows = g.pool ? 2 * (to - from) + 1 : to - from;
        const size_t kept = continues && g.pool;
        if (!continues && blocks() < g.planes * g.out_bytes) std::memset(bits, 0, g.planes * plane);
        for (size_t p = 0; p < g.planes && kept; ++p)
            std::memmove(bits + p * plane, bits + p * plane + 2 * most * row_bytes, row_bytes);
        convolve(isa, in, size, y + kept, rows - kept, {bits + kept * row_bytes, plane, nullptr});
        for (size_t p = 0; p < g.planes; ++p)
            for (size_t row = from; row < to; ++row) {
                uint8_t* target = map_row(map, size, row) + p * plane_bytes(size);
                const uint8_t* source =
                    bits + p * plane + (row - from) * (g.pool ? 2 : 1) * row_bytes;
                if (g.pool)
                    pool_row(source, row_bytes, size, target);
                else
                    std::memcpy(target, source, size.out_width * g.out_bytes);
            }
    }

    // Pool one row of the map: a bit is 1 if any of 3 x 3 bits is 1.
    void pool_row(const uint8_t* rows, size_t row_bytes, const Size& size, uint8_t* to) const {
        const size_t b = g.out_bytes, width = size.conv_width * b;
        uint8_t* merged = Scratch::grow(Scratch::mine().merged, width);
        uint8_t* pooled = Scratch::grow(Scratch::mine().pooled, width);
        for (size_t i = 0; i < width; ++i)
            merged[i] = rows[i] | rows[i + row_bytes] | rows[i + 2 * row_bytes];
        for (size_t i = 0; i < width - 2 * b; ++i)
            pooled[i] = merged[i] | merged[i + b] | merged[i + 2 * b];
        for (size_t x = 0; x < size.out_width; ++x, pooled += 2 * b, to += b)
            for (size_t i = 0; i < b; ++i) to[i] = pooled[i];
    }

    size_t width() const { return g.outputs / g.groups; }

    // Write row y of the channels c to after(c) - 1, computed from counts [conv_width][8].
    template <class T>
    void put_sums(const int32_t* counts, size_t c, const Size& size, size_t y, T* out) const {
        const size_t some = after(c) - c;
        out += y * size.conv_width * g.outputs + c;
        for (size_t x = 0; x < size.conv_width; ++x)
            for (size_t i = 0; i < some; ++i)
                out[x * g.outputs + i] =
                    static_cast<T>(static_cast<int32_t>(g.products) - 2 * counts[8 * x + i]);
    }

    void put_real(const int32_t* counts, size_t c, const Size& size, size_t y, float* out) const {
        const size_t plane = size.out_height * size.conv_width, some = after(c) - c;
        float factor[8] = {}, addend[8] = {}, scaled[8];
        std::copy(&scale[c], &scale[c] + some, factor);
        std::copy(&bias[c], &bias[c] + some, addend);
        out += c * plane + y * size.conv_width;
        // Prefetch the place of the row after the next one, which the cache is slow to fetch.
        for (size_t i = 0; i < 2 * some; ++i)
            RBSF_PREFETCH(out + i / 2 * plane + 2 * size.conv_width + i % 2 * 16);
        for (size_t x = 0; x < size.conv_width; ++x) {
            for (size_t i = 0; i < 8; ++i) {
                const int32_t sum = static_cast<int32_t>(g.products) - 2 * counts[8 * x + i];
                scaled[i] = factor[i] * static_cast<float>(sum) + addend[i];
            }
            if (some == 8)  // unrolled by the compiler
                for (size_t i = 0; i < 8; ++i) out[i * plane + x] = scaled[i];
            else
                for (size_t i = 0; i < some; ++i) out[i * plane + x] = scaled[i];
        }
    }
};

}  // namespace rbsf
