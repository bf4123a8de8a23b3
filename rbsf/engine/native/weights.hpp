// A layer's weights in the order that kernels read.

#pragma once

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "geometry.hpp"
#include "kernels.hpp"

namespace rbsf {

inline uint8_t* bytes_of(Line& line) { return reinterpret_cast<uint8_t*>(line.word); }

// All four forms take rows [8 * blocks][kernel * kernel * bytes] and thresholds [8 * blocks]. An
// output bit is sum >= threshold.

// For Kernels::bits: running parities of the words of a window. The bytes of a window have no gaps.
struct BitWeights {
    std::vector<Line> lines, limits;

    BitWeights() = default;
    BitWeights(const Geometry& g, size_t blocks, const uint8_t* rows, const int32_t* thresholds)
        : lines(blocks * g.words()), limits(blocks) {
        const size_t size = g.window_bytes(), words = g.words();
        for (size_t slot = 0; slot < 8 * blocks; ++slot) {
            uint64_t parity = 0;
            for (size_t t = 0; t < words; ++t) {
                uint64_t word = 0;
                std::memcpy(&word, rows + slot * size + 8 * t, std::min<size_t>(8, size - 8 * t));
                lines[slot / 8 * words + t].word[slot % 8] = parity ^= word;
            }
            limits[slot / 8].word[slot % 8] =
                static_cast<uint64_t>(most_differing(g, thresholds[slot]));
        }
    }

    // products - 2 * count >= threshold, so count <= floor((products - threshold) / 2)
    static int64_t most_differing(const Geometry& g, int32_t threshold) {
        const int64_t products = static_cast<int64_t>(g.products), spare = products - threshold;
        return spare < 0 ? -1 : std::min(spare / 2, products);
    }
};

// The first block of 32 filters of each group, and the end. `eights`: the same of 8 filters. No
// group shares a block with another.
inline std::vector<size_t> blocks_of_32(const std::vector<size_t>& eights) {
    std::vector<size_t> first{0};
    for (size_t i = 1; i < eights.size(); ++i)
        first.push_back(first.back() + (eights[i] - eights[i - 1] + 3) / 4);
    return first;
}

// For Kernels::nibbles: 4 bits of 32 filters a step, in the order of nibble_place.
struct NibbleWeights {
    std::vector<Line> steps, limits;  // a line has two steps
    std::vector<size_t> first_block;  // the first block of 32 filters of each group, and the end

    NibbleWeights() = default;
    NibbleWeights(const Geometry& g, const std::vector<size_t>& eights, const uint8_t* rows,
                  const int32_t* thresholds)
        : first_block(blocks_of_32(eights)) {
        steps.resize(first_block.back() * g.window_bytes());
        limits.resize(first_block.back());
        for (size_t group = 0; group < g.groups; ++group)
            for (size_t slot = 8 * eights[group]; slot < 8 * eights[group + 1]; ++slot)
                put(g, 32 * first_block[group] + slot - 8 * eights[group],
                    rows + slot * g.window_bytes(), thresholds[slot]);
    }

    const uint8_t* of_group(const Geometry& g, size_t group) const {
        return reinterpret_cast<const uint8_t*>(&steps[first_block[group] * g.window_bytes()]);
    }

  private:
    void put(const Geometry& g, size_t slot, const uint8_t* row, int32_t threshold) {
        const size_t place = nibble_place(slot % 32), first = slot / 32 * g.window_bytes();
        for (size_t i = 0; i < g.window_bytes(); ++i) {
            bytes_of(steps[first + i])[place] = row[i] & 15;
            bytes_of(steps[first + i])[32 + place] = row[i] >> 4;
        }
        const auto limit = static_cast<int16_t>(BitWeights::most_differing(g, threshold));
        std::memcpy(bytes_of(limits[slot / 32]) + place % 2 * 32 + place / 2 * 2, &limit, 2);
    }
};

// For Kernels::pixels: lines of 4 bytes of 16 filters. Lines that can be added in 16 bits form
// pairs.
struct PixelWeights {
    std::vector<Line> lines, limits;
    std::vector<size_t> order;  // order of the lines; the first `paired` lines form pairs
    size_t paired = 0;

    PixelWeights() = default;
    PixelWeights(const Geometry& g, size_t blocks, const uint8_t* rows, const int32_t* thresholds) {
        const size_t run = g.kernel * g.bytes, steps = g.row_lines(), count = g.kernel * steps;
        const size_t pairs = (blocks + 1) / 2;
        std::vector<Line> natural(pairs * count);
        limits.resize(pairs);
        for (size_t slot = 0; slot < 8 * blocks; ++slot) {
            for (size_t i = 0; i < g.kernel * run; ++i)
                bytes_of(natural[slot / 16 * count + i / run * steps + i % run / 4])[slot % 16 * 4 +
                                                                                     i % run % 4] =
                    rows[slot * g.kernel * run + i];
            std::memcpy(bytes_of(limits[slot / 16]) + slot % 16 * 4, thresholds + slot, 4);
        }
        pair_lines(natural, pairs, count);
        for (size_t i = 0; i < natural.size(); ++i)
            lines.push_back(natural[i / count * count + order[i % count]]);
    }

  private:
    // Form pairs of lines. In a pair, the weights of each sign add up to at most 128 at every pair
    // of products, so the sum of 4 products is within 128 * 255 < 2^15. Lines with the largest
    // weights are paired first; lines without a partner come last.
    void pair_lines(const std::vector<Line>& natural, size_t line_blocks, size_t count) {
        const size_t width = 64 * line_blocks;
        std::vector<uint8_t> load(count * width);  // [count][pairs of products][positive, negative]
        std::vector<std::pair<uint8_t, size_t>> heaviest;
        for (size_t i = 0; i < count; ++i) {
            for (size_t j = 0; j < width; ++j) {
                int8_t weight;
                std::memcpy(&weight,
                            reinterpret_cast<const char*>(&natural[j / 64 * count + i]) + j % 64,
                            1);
                load[i * width + j / 2 * 2 + (weight < 0)] +=
                    static_cast<uint8_t>(weight < 0 ? -weight : weight);
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
            const auto mate =
                std::find_if(heaviest.begin(), heaviest.end(),
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
};

// For Kernels::bytes. A window's rows are cut into chunks of equal size, up to 64 bytes. If the
// last chunk is longer than the rest of its row, the extra weights are 0. The lines of a chunk for
// 32 filters are contiguous.
//
// Weights of bits are kept as bits and spread at each use; this is faster than fetching 8 times as
// much from a slower cache.
struct ByteWeights {
    size_t row_chunks = 0, chunk_lines = 0;
    std::vector<Line> lines, limits;
    std::vector<uint64_t> bits;       // the lines' bytes as bits
    uint64_t number = 0;              // a different number for each layer
    std::vector<size_t> first_block;  // the first block of 32 filters of each group, and the end

    ByteWeights() = default;
    ByteWeights(const Geometry& g, const std::vector<size_t>& eights, const uint8_t* rows,
                const int32_t* thresholds) {
        static std::atomic<uint64_t> layers{0};
        number = ++layers;
        const size_t run = g.kernel * g.bytes * (g.pixels ? 1 : 8);
        row_chunks = (run + 63) / 64;
        chunk_lines = (run + 4 * row_chunks - 1) / (4 * row_chunks);
        first_block = blocks_of_32(eights);
        if (g.pixels)
            lines.resize(first_block.back() * block_lines(g));
        else
            bits.resize(first_block.back() * block_lines(g));
        limits.resize(2 * first_block.back());
        for (size_t group = 0; group < g.groups; ++group)
            for (size_t slot = 8 * eights[group]; slot < 8 * eights[group + 1]; ++slot)
                put(g, 32 * first_block[group] + slot - 8 * eights[group],
                    rows + slot * g.window_bytes(), thresholds[slot]);
    }

    size_t chunks(const Geometry& g) const { return g.kernel * row_chunks; }
    size_t block_lines(const Geometry& g) const { return 2 * chunks(g) * chunk_lines; }

    // The lines of the weights of bits, as int8 1 and -1. A thread keeps the lines of the last
    // layer that it spread.
    const Line* spread(const Geometry& g, const Kernels& isa) const {
        Scratch& scratch = Scratch::mine();
        Line* to = Scratch::grow(scratch.weights, bits.size());
        if (scratch.weights_of == number) return to;
        isa.signs(bits.data(), bits.size(), to);
        const size_t used = g.kernel * g.bytes * 2;  // number of lines in a window's row
        for (size_t i = 0; i < bits.size() && used < row_chunks * chunk_lines; ++i)
            if (i / (2 * chunk_lines) % row_chunks * chunk_lines + i % chunk_lines >= used)
                to[i] = {};
        scratch.weights_of = number;
        return to;
    }

  private:
    void put(const Geometry& g, size_t slot, const uint8_t* row, int32_t threshold) {
        const size_t per = g.pixels ? 1 : 8, run = g.kernel * g.bytes * per,
                     width = 4 * chunk_lines;
        const size_t first = slot / 32 * block_lines(g) + slot / 16 % 2 * chunk_lines;
        int32_t total = 0;
        for (size_t i = 0; i < g.kernel * run; ++i) {
            const size_t chunk = i / run * row_chunks + i % run / width, at = i % run % width;
            const bool bit = row[i / 8] >> i % 8 & 1;
            const size_t line = first + 2 * chunk * chunk_lines + at / 4,
                         byte = slot % 16 * 4 + at % 4;
            if (g.pixels)
                bytes_of(lines[line])[byte] = row[i];
            else
                bits[line] |= uint64_t{bit} << byte;
            total += bit;
        }
        // The sum of bits 0 and 1 times weights -1 and 1 is total - count; `count` is the number of
        // differing bits.
        const int32_t limit =
            g.pixels ? threshold
                     : total - static_cast<int32_t>(BitWeights::most_differing(g, threshold));
        std::memcpy(bytes_of(limits[slot / 16]) + slot % 16 * 4, &limit, 4);
    }
};

}  // namespace rbsf
