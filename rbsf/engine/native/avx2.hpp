// AVX2: binary convolutions look counts up in tables. The first layer uses vpmaddubsw, which is
// exact because weights have 7 bits.

#pragma once

#include "kernels.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>

#include "cpuid.hpp"

#if defined(_MSC_VER) && !defined(__clang__)
#define RBSF_AVX2
#else
#define RBSF_AVX2 __attribute__((target("avx2")))
#endif

namespace rbsf {

struct Avx2 {
    static constexpr int NIBBLE_PIXELS = 4, NIBBLE_BLOCKS = 4, NIBBLE_SUMS = 9, U8_PIXELS = 6,
                         U8_BLOCKS = 1;

    static bool available() { return cpu_has_avx2(); }

    template <int P, int B>
    RBSF_AVX2 static void nibbles(const NibblesRow& row, size_t block, size_t pixel) {
        const size_t pixel_step = row.pixel_step, block_step = row.block_step;
        const uint8_t* map = row.map + pixel * pixel_step;
        const uint8_t* end = map + row.run;
        const uint8_t* weights = row.weights + block * block_step;
        __m256i count[P][B];
        RBSF_UNROLL
        for (int p = 0; p < P; ++p) RBSF_UNROLL
        for (int b = 0; b < B; ++b) count[p][b] = _mm256_setzero_si256();
        RBSF_UNROLL_4
        for (; map < end; ++map, weights += 32) {
            __m256i weight[B];
            RBSF_UNROLL
            for (int b = 0; b < B; ++b) {
                weight[b] = load(weights + b * block_step);
                RBSF_IN_REGISTER(weight[b]);
            }
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) {
                const __m256i table = counts_of(map[p * pixel_step]);
                RBSF_UNROLL
                for (int b = 0; b < B; ++b)
                    count[p][b] =
                        _mm256_add_epi8(count[p][b], _mm256_shuffle_epi8(table, weight[b]));
            }
        }
        const __m256i every_second = _mm256_set1_epi16(255);
        RBSF_UNROLL
        for (int p = 0; p < P; ++p) RBSF_UNROLL
        for (int b = 0; b < B; ++b) {
            Line* sum = row.sums + (pixel + p) * row.blocks + block + b;
            add(sum, 0, _mm256_and_si256(count[p][b], every_second));
            add(sum, 1, _mm256_srli_epi16(count[p][b], 8));
        }
    }

    template <int P, int B>
    RBSF_AVX2 static void pixels(const PixelsRow& row, size_t block, size_t pixel) {
        const uint8_t* window = row.image + pixel * row.pixel_step;
        const __m256i ones = _mm256_set1_epi16(1);
        for (int half = 0; half < 2; ++half) {  // halves of the block's 16 filters
            const Line* w = row.weights + block * row.lines;
            __m256i sum[P];
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) sum[p] = _mm256_setzero_si256();
            size_t i = 0;
            for (; i < row.paired; i += 2) {
                const uint8_t *from0 = window + row.offsets[i],
                              *from1 = window + row.offsets[i + 1];
                const __m256i w0 = load(w + i, half), w1 = load(w + i + 1, half);
                RBSF_UNROLL
                for (int p = 0; p < P; ++p) {
                    const __m256i part0 =
                        _mm256_maddubs_epi16(four(from0 + p * row.pixel_step), w0);
                    const __m256i part1 =
                        _mm256_maddubs_epi16(four(from1 + p * row.pixel_step), w1);
                    sum[p] = _mm256_add_epi32(
                        sum[p], _mm256_madd_epi16(_mm256_add_epi16(part0, part1), ones));
                }
            }
            for (; i < row.lines; ++i) {
                const uint8_t* from = window + row.offsets[i];
                const __m256i w0 = load(w + i, half);
                RBSF_UNROLL
                for (int p = 0; p < P; ++p) {
                    const __m256i part = _mm256_maddubs_epi16(four(from + p * row.pixel_step), w0);
                    sum[p] = _mm256_add_epi32(sum[p], _mm256_madd_epi16(part, ones));
                }
            }
            const __m256i limit = load(row.limits + block, half);
            RBSF_UNROLL
            for (int p = 0; p < P; ++p)
                row.out[2 * block + half][(pixel + p) * row.out_step] = not_below(sum[p], limit);
        }
    }

    RBSF_AVX2 static void put_nibbles(const NibblesSums& row) {
        const Line* sums = row.sums;
        for (size_t pixel = 0; pixel < row.pixels; ++pixel)
            for (size_t block = 0; block < row.blocks; ++block, ++sums)
                if (row.counts)
                    put_counts(row, block, pixel, load(sums, 0), load(sums, 1));
                else
                    put_bits(row, block, pixel, load(sums, 0), load(sums, 1));
    }

  private:
    RBSF_AVX2 static __m256i load(const Line* line, int half) {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(line->word + 4 * half));
    }
    RBSF_AVX2 static void add(Line* line, int half, __m256i more) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(line->word + 4 * half),
                           _mm256_add_epi16(load(line, half), more));
    }
    RBSF_AVX2 static __m256i load(const uint8_t* bytes) {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes));
    }
    RBSF_AVX2 static __m256i four(const uint8_t* pixels) {
        return _mm256_set1_epi32(static_cast<int>(load32(pixels)));
    }
    RBSF_AVX2 static uint8_t not_below(__m256i sums, __m256i limits) {
        const __m256i below = _mm256_cmpgt_epi32(limits, sums);
        return static_cast<uint8_t>(~_mm256_movemask_ps(_mm256_castsi256_ps(below)));
    }

    // The table of how many bits differ from those of a nibble, for each of 16 nibbles; twice.
    RBSF_AVX2 static __m256i counts_of(uint8_t nibble_by_16) {
        alignas(16) static constexpr uint8_t DIFFERING[16][16] = {
            {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4},
            {1, 0, 2, 1, 2, 1, 3, 2, 2, 1, 3, 2, 3, 2, 4, 3},
            {1, 2, 0, 1, 2, 3, 1, 2, 2, 3, 1, 2, 3, 4, 2, 3},
            {2, 1, 1, 0, 3, 2, 2, 1, 3, 2, 2, 1, 4, 3, 3, 2},
            {1, 2, 2, 3, 0, 1, 1, 2, 2, 3, 3, 4, 1, 2, 2, 3},
            {2, 1, 3, 2, 1, 0, 2, 1, 3, 2, 4, 3, 2, 1, 3, 2},
            {2, 3, 1, 2, 1, 2, 0, 1, 3, 4, 2, 3, 2, 3, 1, 2},
            {3, 2, 2, 1, 2, 1, 1, 0, 4, 3, 3, 2, 3, 2, 2, 1},
            {1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3},
            {2, 1, 3, 2, 3, 2, 4, 3, 1, 0, 2, 1, 2, 1, 3, 2},
            {2, 3, 1, 2, 3, 4, 2, 3, 1, 2, 0, 1, 2, 3, 1, 2},
            {3, 2, 2, 1, 4, 3, 3, 2, 2, 1, 1, 0, 3, 2, 2, 1},
            {2, 3, 3, 4, 1, 2, 2, 3, 1, 2, 2, 3, 0, 1, 1, 2},
            {3, 2, 4, 3, 2, 1, 3, 2, 2, 1, 3, 2, 1, 0, 2, 1},
            {3, 4, 2, 3, 2, 3, 1, 2, 2, 3, 1, 2, 1, 2, 0, 1},
            {4, 3, 3, 2, 3, 2, 2, 1, 3, 2, 2, 1, 2, 1, 1, 0}};
        const auto* table = reinterpret_cast<const __m128i*>(DIFFERING[0] + nibble_by_16);
        return _mm256_broadcastsi128_si256(_mm_load_si128(table));
    }

    // The counts of 32 filters: of blocks 0 and 2 of 8 filters in `low`, of 1 and 3 in `high`.
    RBSF_AVX2 static void put_counts(const NibblesSums& row, size_t block, size_t pixel,
                                     __m256i low, __m256i high) {
        const __m128i eight[4] = {_mm256_castsi256_si128(low), _mm256_castsi256_si128(high),
                                  _mm256_extracti128_si256(low, 1),
                                  _mm256_extracti128_si256(high, 1)};
        for (size_t i = 0; i < 4 && 4 * block + i < row.eights; ++i) {
            int32_t* out = row.counts + ((4 * block + i) * row.pixels + pixel) * 8;
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_cvtepi16_epi32(eight[i]));
        }
    }

    RBSF_AVX2 static void put_bits(const NibblesSums& row, size_t block, size_t pixel, __m256i low,
                                   __m256i high) {
        const __m256i low_over = _mm256_cmpgt_epi16(low, load(row.limits + block, 0)),
                      high_over = _mm256_cmpgt_epi16(high, load(row.limits + block, 1));
        const unsigned bits =
            ~static_cast<unsigned>(_mm256_movemask_epi8(_mm256_packs_epi16(low_over, high_over)));
        for (size_t i = 0; i < 4 && 4 * block + i < row.eights; ++i)
            row.out[4 * block + i][pixel * row.out_step] = static_cast<uint8_t>(bits >> 8 * i);
    }
};

}  // namespace rbsf
#endif
