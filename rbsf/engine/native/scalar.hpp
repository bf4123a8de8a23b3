// Plain C++ for every machine. The compiler vectorises the loops over 8 and 16 filters.

#pragma once

#include "kernels.hpp"

namespace rbsf {

struct Scalar {
    static constexpr int PIXELS = 1, U8_PIXELS = 8, U8_BLOCKS = 1;

    static bool available() { return true; }

    static uint64_t popcount(uint64_t x) {
        x -= (x >> 1) & 0x5555555555555555u;
        x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
        x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
        x += x >> 8;
        x += x >> 16;
        return (x + (x >> 32)) & 0xff;
    }

    template <int P>
    static void bits(const BitsRow& row, size_t block, size_t pixel) {
        const bool odd = row.words & 1;
        const Line *w = row.weights + block * row.words, *end = w + row.words;
        Line sum{}, last{};
        for (int i = 0; odd && i < 8; ++i) last.word[i] = row.windows[pixel] ^ w->word[i];
        const uint64_t* x = row.windows + odd * row.pixels + 2 * pixel;
        for (w += odd; w < end; w += 2, x += 2 * row.pixels) {
            for (int i = 0; i < 8; ++i) {
                const uint64_t q = x[0] ^ w[0].word[i], r = x[1] ^ w[1].word[i];
                sum.word[i] += popcount((q & ~r) | (~q & last.word[i]));
                last.word[i] = r;
            }
        }
        unsigned bits = 0;
        for (int i = 0; i < 8; ++i) {
            const int64_t count = static_cast<int64_t>(2 * sum.word[i] + popcount(last.word[i]));
            if (row.counts)
                row.counts[(block * row.pixels + pixel) * 8 + i] = static_cast<int32_t>(count);
            bits |= static_cast<unsigned>(count <= static_cast<int64_t>(row.limits[block].word[i]))
                    << i;
        }
        if (!row.counts) row.out[block][pixel * row.out_step] = static_cast<uint8_t>(bits);
    }

    template <int P, int B>
    static void pixels(const PixelsRow& row, size_t block, size_t pixel) {
        int32_t sum[P][16] = {};
        const uint8_t* window = row.image + pixel * row.pixel_step;
        for (size_t line = 0; line < row.lines; ++line) {
            int8_t bytes[64];
            std::memcpy(bytes, row.weights + block * row.lines + line, 64);
            int16_t w[4][16];
            for (int i = 0; i < 64; ++i) w[i % 4][i / 4] = bytes[i];
            for (int p = 0; p < P; ++p) {
                const uint8_t* from = window + p * row.pixel_step + row.offsets[line];
                for (int j = 0; j < 4; j += 2) {
                    const int16_t x0 = from[j], x1 = from[j + 1];
                    for (int i = 0; i < 16; ++i)  // two products fit 16 bits
                        sum[p][i] += static_cast<int16_t>(x0 * w[j][i] + x1 * w[j + 1][i]);
                }
            }
        }
        int32_t limit[16];
        std::memcpy(limit, row.limits + block, 64);
        for (int p = 0; p < P; ++p) {
            unsigned bits = 0;
            for (int i = 0; i < 16; ++i) bits |= static_cast<unsigned>(sum[p][i] >= limit[i]) << i;
            row.out[2 * block][(pixel + p) * row.out_step] = static_cast<uint8_t>(bits);
            row.out[2 * block + 1][(pixel + p) * row.out_step] = static_cast<uint8_t>(bits >> 8);
        }
    }
};

}  // namespace rbsf
