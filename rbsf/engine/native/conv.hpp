// A convolution with what follows it up to the next layer: thresholds, packing, pooling.  Works row by row.
//
// Maps of bits are [N, planes, H, W, bytes]: a plane holds the channels of one group of the layer that reads it, so
// that a row of a window is one run of bytes.  A map has its reader's padding around it, in zeros (-1).  Which channel
// stands where is the caller's business (layout.py): it gives weights in the order of the bytes.

#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "geometry.hpp"
#include "kernels.hpp"

namespace rbsf {

class Conv {
  public:
    const Geometry g;

    // weights [8 * blocks][kernel * kernel * bytes], thresholds [8 * blocks], scale and bias [outputs] for a real
    // output, else empty; group_blocks: how many blocks of 8 filters each group has.
    Conv(const Geometry& geometry, const uint8_t* weights, const int32_t* thresholds,
         const std::vector<size_t>& group_blocks, std::vector<Place> places, std::vector<float> scale,
         std::vector<float> bias)
        : g(geometry), places(std::move(places)), scale(std::move(scale)), bias(std::move(bias)) {
        for (size_t count : group_blocks) first_block.push_back(first_block.back() + count);
        if (g.pixels)
            prepare_pixels(weights, thresholds);
        else
            prepare_bits(weights, thresholds);
    }

    // Output rows first..last - 1 of one image; height and width are the input map's, its margin included.
    void rows(const Kernels& isa, const uint8_t* in, size_t height, size_t width, void* out, size_t first,
              size_t last) const {
        const Size size{height, width, g.conv_size(width), g.output_size(height), g.output_size(width)};
        uint8_t* map = static_cast<uint8_t*>(out);
        if (g.output == Output::real) {
            for (size_t y = first; y < last; ++y) real_row(isa, in, size, y, static_cast<float*>(out));
        } else if (g.output == Output::sums) {
            for (size_t y = first; y < last; ++y) sums_row(isa, in, size, y, static_cast<int32_t*>(out));
        } else if (g.pool) {
            pooled_rows(isa, in, size, first, last, map);
        } else {
            for (size_t y = first; y < last; ++y) bits_row(isa, in, size, y, map_row(map, size, y), plane_bytes(size));
        }
    }

  private:
    struct Size {
        size_t height, width, conv_width, out_height, out_width;
    };

    std::vector<size_t> first_block{0};  // of each group, and the end
    std::vector<Place> places;
    std::vector<float> scale, bias;
    std::vector<Line> weights, limits;
    std::vector<Line> natural;  // weights of pixels before they were paired
    std::vector<size_t> order;  // of the lines of pixels; the first `paired` are pairs
    size_t paired = 0;

    size_t blocks() const { return first_block.back(); }

    void prepare_bits(const uint8_t* rows, const int32_t* thresholds) {
        const size_t run = g.kernel * g.bytes, row_words = g.row_words(), words = g.kernel * row_words;
        weights.resize(blocks() * words);
        limits.resize(blocks());
        for (size_t slot = 0; slot < 8 * blocks(); ++slot) {
            uint64_t parity = 0;
            for (size_t t = 0; t < words; ++t) {
                const size_t from = t % row_words * 8;
                uint64_t word = 0;
                std::memcpy(&word, rows + (slot * g.kernel + t / row_words) * run + from, std::min<size_t>(8, run - from));
                weights[slot / 8 * words + t].word[slot % 8] = parity ^= word;
            }
            // products - 2 * count >= threshold, so count <= floor((products - threshold) / 2)
            const int64_t products = static_cast<int64_t>(g.products), spare = products - thresholds[slot];
            const int64_t limit = spare < 0 ? -1 : std::min(spare / 2, products);
            limits[slot / 8].word[slot % 8] = static_cast<uint64_t>(limit);
        }
    }

    void prepare_pixels(const uint8_t* rows, const int32_t* thresholds) {
        const size_t run = g.kernel * g.bytes, steps = g.row_words(), lines = g.kernel * steps;
        const size_t pairs = (blocks() + 1) / 2;
        natural.resize(pairs * lines);
        limits.resize(pairs);
        for (size_t slot = 0; slot < 8 * blocks(); ++slot) {
            for (size_t i = 0; i < g.kernel * run; ++i) {
                Line& line = natural[slot / 16 * lines + i / run * steps + i % run / 4];
                reinterpret_cast<uint8_t*>(line.word)[slot % 16 * 4 + i % run % 4] = rows[slot * g.kernel * run + i];
            }
            std::memcpy(reinterpret_cast<uint8_t*>(limits[slot / 16].word) + slot % 16 * 4, thresholds + slot, 4);
        }
        pair_lines(pairs, lines);
        weights.resize(natural.size());
        for (size_t i = 0; i < natural.size(); ++i)
            weights[i] = natural[i / lines * lines + order[i % lines]];
    }

    // Bring lines together, two and two, whose weights of either sign add up to at most 128 at every pair of products:
    // then the sum of 4 products is within 128 * 255 < 2^15.  The heaviest lines choose first; singles come last.
    void pair_lines(size_t line_blocks, size_t lines) {
        const size_t width = 64 * line_blocks;
        std::vector<uint8_t> load(lines * width);  // [lines][pairs of products][positive, negative]
        std::vector<std::pair<uint8_t, size_t>> heaviest;
        for (size_t i = 0; i < lines; ++i) {
            for (size_t j = 0; j < width; ++j) {
                int8_t weight;
                std::memcpy(&weight, reinterpret_cast<const char*>(&natural[j / 64 * lines + i]) + j % 64, 1);
                load[i * width + j / 2 * 2 + (weight < 0)] += static_cast<uint8_t>(weight < 0 ? -weight : weight);
            }
            heaviest.emplace_back(*std::max_element(&load[i * width], &load[i * width] + width), i);
        }
        std::sort(heaviest.rbegin(), heaviest.rend());
        const auto fit = [&](size_t a, size_t b) {
            for (size_t j = 0; j < width; ++j)
                if (load[a * width + j] + load[b * width + j] > 128) return false;
            return true;
        };
        std::vector<size_t> singles;
        while (!heaviest.empty()) {
            const size_t line = heaviest.front().second;
            heaviest.erase(heaviest.begin());
            const auto mate = std::find_if(heaviest.begin(), heaviest.end(),
                                           [&](const auto& other) { return fit(line, other.second); });
            if (mate == heaviest.end()) {
                singles.push_back(line);
            } else {
                order.insert(order.end(), {line, mate->second});
                heaviest.erase(mate);
            }
        }
        paired = order.size();
        order.insert(order.end(), singles.begin(), singles.end());
    }

    size_t plane_bytes(const Size& size) const {
        return (size.out_height + 2 * g.margin) * (size.out_width + 2 * g.margin) * g.out_bytes;
    }
    uint8_t* map_row(uint8_t* map, const Size& size, size_t y) const {
        return map + ((y + g.margin) * (size.out_width + 2 * g.margin) + g.margin) * g.out_bytes;
    }

    // Row y of the convolution as bits: plane p's at out + p * plane_step.
    void bits_row(const Kernels& isa, const uint8_t* in, const Size& size, size_t y, uint8_t* out,
                  size_t plane_step) const {
        Scratch& scratch = Scratch::mine();
        const size_t count = (blocks() + 1) / 2 * 2;
        uint8_t** targets = Scratch::grow(scratch.out, count);
        for (size_t i = 0; i < blocks(); ++i) targets[i] = out + places[i].plane * plane_step + places[i].byte;
        if (count > blocks()) targets[count - 1] = Scratch::grow(scratch.unused, size.conv_width * g.out_bytes);
        if (g.pixels)
            pixels_row(isa, in, size, y, targets);
        else
            filter_row(isa, in, size, y, targets, nullptr);
    }

    void pixels_row(const Kernels& isa, const uint8_t* in, const Size& size, size_t y, uint8_t** targets) const {
        // A copy of the image's rows, because the kernels read a little behind the last window.
        const size_t row_step = size.width * g.bytes, length = g.kernel * row_step;
        uint8_t* image = Scratch::grow(Scratch::mine().image, length + 4);
        std::memcpy(image, in + y * g.stride * row_step, length);
        const size_t steps = g.row_words(), lines = g.kernel * steps;
        size_t* offsets = Scratch::grow(Scratch::mine().offsets, lines);
        for (size_t i = 0; i < lines; ++i) offsets[i] = order[i] / steps * row_step + order[i] % steps * 4;
        isa.pixels({image, size.conv_width, g.stride * g.bytes, offsets, lines, g.kernel, row_step, paired,
                    weights.data(), natural.data(), limits.size(), limits.data(), targets, g.out_bytes});
    }

    // Row y of all groups, as bits or as counts [blocks][conv_width][8].
    void filter_row(const Kernels& isa, const uint8_t* in, const Size& size, size_t y, uint8_t** targets,
                    int32_t* counts) const {
        const size_t words = g.kernel * g.row_words();
        uint64_t* windows = Scratch::grow(Scratch::mine().windows, size.conv_width * words);
        for (size_t group = 0; group < g.groups; ++group) {
            gather(in + group * size.height * size.width * g.bytes, size, y, windows);
            const size_t first = first_block[group];
            isa.bits({windows, size.conv_width, words, weights.data() + first * words, first_block[group + 1] - first,
                      limits.data() + first, targets + first, g.out_bytes, counts ? counts + 8 * first * size.conv_width : nullptr});
        }
    }

    // One word of all windows of a row: 8 bytes at data + x * step, less the lowest `shift` bits.
    struct Word {
        const uint8_t* data;
        unsigned shift;
        uint64_t at(size_t offset) const { return load64(data + offset) >> shift; }
    };

    // Word t of the windows of row y, no byte beyond them.
    Word word(const uint8_t* plane, const Size& size, size_t y, size_t t) const {
        const size_t run = g.kernel * g.bytes, words = g.row_words(), at = t % words * 8;
        const uint8_t* from = plane + (y * g.stride + t / words) * size.width * g.bytes;
        if (at + 8 <= run) return {from + at, 0};
        return {from + run - 8, static_cast<unsigned>(64 - run % 8 * 8)};
    }

    // The windows of row y as running parities, in the order of BitsRow.
    void gather(const uint8_t* plane, const Size& size, size_t y, uint64_t* to) const {
        const size_t step = g.stride * g.bytes, width = size.conv_width, words = g.kernel * g.row_words();
        if (g.kernel * g.bytes < 8) return gather_short(plane, size, y, to);
        const uint64_t none = 0, *parity = &none;
        size_t parity_step = 0, t = words & 1;
        if (t) {
            const Word first = word(plane, size, y, 0);
            for (size_t x = 0; x < width; ++x) to[x] = first.at(x * step);
            parity = to;
            parity_step = 1;
            to += width;
        }
        for (; t < words; t += 2, to += 2 * width) {
            const Word first = word(plane, size, y, t), second = word(plane, size, y, t + 1);
            for (size_t x = 0; x < width; ++x) {
                to[2 * x] = first.at(x * step) ^ parity[x * parity_step];
                to[2 * x + 1] = second.at(x * step) ^ to[2 * x];
            }
            parity = to + 1;
            parity_step = 2;
        }
    }

    // The same for windows whose rows, less than 8 bytes, are a word each.
    void gather_short(const uint8_t* plane, const Size& size, size_t y, uint64_t* to) const {
        const size_t width = size.conv_width, odd = g.kernel & 1;
        for (size_t x = 0; x < width; ++x) {
            uint64_t parity = 0;
            for (size_t t = 0; t < g.kernel; ++t) {
                uint64_t row = 0;
                const uint8_t* from = plane + ((y * g.stride + t) * size.width + x * g.stride) * g.bytes;
                std::memcpy(&row, from, g.kernel * g.bytes);
                parity ^= row;
                (t < odd ? to[x] : to[odd * width + (t - odd) / 2 * 2 * width + 2 * x + (t - odd) % 2]) = parity;
            }
        }
    }

    void pooled_rows(const Kernels& isa, const uint8_t* in, const Size& size, size_t first, size_t last,
                     uint8_t* map) const {
        Scratch& scratch = Scratch::mine();
        const size_t plane = size.conv_width * g.out_bytes, length = g.planes * plane;
        uint8_t* row = Scratch::grow(scratch.row, length);
        uint8_t* merged = Scratch::grow(scratch.merged, length);
        for (size_t y = 2 * first; y <= 2 * last; ++y) {
            std::memset(row, 0, length);  // bytes that no block writes
            bits_row(isa, in, size, y, row, plane);
            if (y > 2 * first) merge(merged, row, length);
            if (y % 2 == 0 && y > 2 * first) pool_columns(merged, size, map_row(map, size, y / 2 - 1));
            if (y % 2 == 0) std::memcpy(merged, row, length);
        }
    }

    static void merge(uint8_t* into, const uint8_t* row, size_t length) {
        for (size_t i = 0; i < length; ++i) into[i] |= row[i];
    }

    void pool_columns(const uint8_t* merged, const Size& size, uint8_t* out) const {
        const size_t b = g.out_bytes, plane = size.conv_width * b, ends = g.planes * plane - 2 * b;
        uint8_t* pooled = Scratch::grow(Scratch::mine().pooled, ends);
        for (size_t i = 0; i < ends; ++i) pooled[i] = merged[i] | merged[i + b] | merged[i + 2 * b];
        for (size_t p = 0; p < g.planes; ++p) {
            const uint8_t* from = pooled + p * plane;
            uint8_t* to = out + p * plane_bytes(size);
            for (size_t x = 0; x < size.out_width; ++x, from += 2 * b, to += b)
                for (size_t i = 0; i < b; ++i) to[i] = from[i];
        }
    }

    int32_t* counts_row(const Kernels& isa, const uint8_t* in, const Size& size, size_t y) const {
        int32_t* counts = Scratch::grow(Scratch::mine().counts, size.conv_width * 8 * blocks());
        filter_row(isa, in, size, y, nullptr, counts);
        return counts;
    }

    // Channel c's counts in a row of them; those of the next pixels follow 8 apart.
    const int32_t* channel(const int32_t* counts, const Size& size, size_t c) const {
        const size_t width = g.outputs / g.groups, local = c % width;
        return counts + (first_block[c / width] + local / 8) * 8 * size.conv_width + local % 8;
    }

    void sums_row(const Kernels& isa, const uint8_t* in, const Size& size, size_t y, int32_t* out) const {
        const int32_t* counts = counts_row(isa, in, size, y);
        out += y * size.conv_width * g.outputs;
        for (size_t c = 0; c < g.outputs; ++c) {
            const int32_t* count = channel(counts, size, c);
            for (size_t x = 0; x < size.conv_width; ++x)
                out[x * g.outputs + c] = static_cast<int32_t>(g.products) - 2 * count[8 * x];
        }
    }

    void real_row(const Kernels& isa, const uint8_t* in, const Size& size, size_t y, float* out) const {
        const int32_t* counts = counts_row(isa, in, size, y);
        float* scaled = Scratch::grow(Scratch::mine().scaled, 8 * size.conv_width);
        const size_t plane = size.out_height * size.conv_width;
        for (size_t c = 0, next; c < g.outputs; c = next) {  // up to 8 channels of one block
            const size_t width = g.outputs / g.groups;
            next = std::min(c + 8, (c / width + 1) * width);
            const int32_t* count = channel(counts, size, c);
            for (size_t x = 0; x < size.conv_width; ++x)
                for (size_t i = 0; i < 8; ++i)
                    scaled[8 * x + i] = static_cast<float>(static_cast<int32_t>(g.products) - 2 * count[8 * x + i]);
            for (size_t i = 0; i < next - c; ++i) {
                const float factor = scale[c + i], addend = bias[c + i];
                float* to = out + (c + i) * plane + y * size.conv_width;
                for (size_t x = 0; x < size.conv_width; ++x) to[x] = factor * scaled[8 * x + i] + addend;
            }
        }
    }
};

}  // namespace rbsf
