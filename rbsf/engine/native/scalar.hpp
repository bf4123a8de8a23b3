// Plain C++: what every machine has.  The loops over 8 and 16 filters are for the compiler's vectoriser.

#pragma once

#include "kernels.hpp"

namespace rbsf {

struct Scalar {
    static constexpr int PIXELS = 1, BLOCKS = 1, U8_PIXELS = 1, U8_BLOCKS = 1;

    static bool available() { return true; }

    static uint64_t popcount(uint64_t x) {
        x -= (x >> 1) & 0x5555555555555555u;
        x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
        x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
        x += x >> 8;
        x += x >> 16;
        return (x + (x >> 32)) & 0xff;
    }

    template <int P, int B>
    static void bits(const BitsRow& row, size_t block, size_t pixel) {
        const uint64_t* x = row.windows + pixel * row.words;
        const Line* w = row.weights + block * row.words;
        Line sum{}, last{};
        size_t t = row.words & 1;
        for (int i = 0; t && i < 8; ++i) last.word[i] = x[0] ^ w[0].word[i];
        for (; t < row.words; t += 2) {
            for (int i = 0; i < 8; ++i) {
                const uint64_t q = x[t] ^ w[t].word[i], r = x[t + 1] ^ w[t + 1].word[i];
                sum.word[i] += popcount((q & ~r) | (~q & last.word[i]));
                last.word[i] = r;
            }
        }
        unsigned bits = 0;
        for (int i = 0; i < 8; ++i) {
            const int64_t count = static_cast<int64_t>(2 * sum.word[i] + popcount(last.word[i]));
            if (row.counts) row.counts[pixel * row.counts_step + block * 8 + i] = static_cast<int32_t>(count);
            bits |= static_cast<unsigned>(count <= static_cast<int64_t>(row.limits[block].word[i])) << i;
        }
        if (!row.counts) row.out[block][pixel * row.out_step] = static_cast<uint8_t>(bits);
    }

    template <int P, int B>
    static void pixels(const PixelsRow& row, size_t block, size_t pixel) {
        int32_t sum[16] = {};
        const uint8_t* window = row.image + pixel * row.pixel_step;
        const Line* w = row.weights + block * row.rows * row.steps;
        for (size_t y = 0; y < row.rows; ++y, window += row.row_step) {
            for (size_t s = 0; s < row.steps; ++s, ++w) {
                int8_t weight[64];
                std::memcpy(weight, w, 64);
                for (int i = 0; i < 16; ++i)
                    for (int j = 0; j < 4; ++j) sum[i] += window[4 * s + j] * weight[4 * i + j];
            }
        }
        int32_t limit[16];
        std::memcpy(limit, row.limits + block, 64);
        unsigned bits = 0;
        for (int i = 0; i < 16; ++i) bits |= static_cast<unsigned>(sum[i] >= limit[i]) << i;
        row.out[2 * block][pixel * row.out_step] = static_cast<uint8_t>(bits);
        row.out[2 * block + 1][pixel * row.out_step] = static_cast<uint8_t>(bits >> 8);
    }
};

}  // namespace rbsf
