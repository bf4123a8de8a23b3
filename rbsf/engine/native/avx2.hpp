// AVX2: popcounts use a table of nibbles. The first layer uses vpmaddubsw, which is exact because
// weights have 7 bits.

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
    static constexpr int PIXELS = 4, U8_PIXELS = 6, U8_BLOCKS = 1;

    static bool available() { return cpu_has_avx2(); }

    template <int P>
    RBSF_AVX2 static void bits(const BitsRow& row, size_t block, size_t pixel) {
        unsigned bits[P] = {};
        for (int half = 0; half < 2; ++half) {  // halves of the block's 8 filters
            __m256i count[P];
            count_half<P>(row, block, pixel, half, count);
            const __m256i limit = load(row.limits + block, half);
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) {
                const __m256i over = _mm256_cmpgt_epi64(count[p], limit);
                bits[p] |=
                    (~static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(over))) & 15)
                    << 4 * half;
                if (row.counts) {
                    const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0);
                    const __m128i four =
                        _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(count[p], even));
                    int32_t* out = row.counts + (block * row.pixels + pixel + p) * 8 + half * 4;
                    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), four);
                }
            }
        }
        for (int p = 0; p < P && !row.counts; ++p)
            row.out[block][(pixel + p) * row.out_step] = static_cast<uint8_t>(bits[p]);
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

  private:
    RBSF_AVX2 static __m256i load(const Line* line, int half) {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(line->word + 4 * half));
    }
    RBSF_AVX2 static __m256i broadcast(const uint64_t* word) {
        return _mm256_set1_epi64x(static_cast<long long>(*word));
    }
    RBSF_AVX2 static __m256i four(const uint8_t* pixels) {
        return _mm256_set1_epi32(static_cast<int>(load32(pixels)));
    }
    RBSF_AVX2 static uint8_t not_below(__m256i sums, __m256i limits) {
        const __m256i below = _mm256_cmpgt_epi32(limits, sums);
        return static_cast<uint8_t>(~_mm256_movemask_ps(_mm256_castsi256_ps(below)));
    }

    // Popcount of every byte.
    RBSF_AVX2 static __m256i popcount(__m256i x) {
        const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                               0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
        const __m256i nibble = _mm256_set1_epi8(15);
        const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));
        const __m256i high =
            _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
        return _mm256_add_epi8(low, high);
    }

    // The counts of half a block (4 filters), in 64 bits each.
    template <int P>
    RBSF_AVX2 static void count_half(const BitsRow& row, size_t block, size_t pixel, int half,
                                     __m256i (&count)[P]) {
        const bool odd = row.words & 1;
        const Line *w = row.weights + block * row.words, *end = w + row.words;
        const __m256i zero = _mm256_setzero_si256();
        __m256i sum[P], last[P];
        RBSF_UNROLL
        for (int p = 0; p < P; ++p) {
            sum[p] = last[p] = zero;
            if (odd) last[p] = _mm256_xor_si256(load(w, half), broadcast(row.windows + pixel + p));
        }
        const uint64_t* x = row.windows + odd * row.pixels + 2 * pixel;
        for (w += odd; w < end;) {
            const Line* stop = end - w > 62 ? w + 62 : end;  // 31 pairs of up to 8 bits fit a byte
            __m256i bytes[P];
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) bytes[p] = zero;
            for (; w < stop; w += 2, x += 2 * row.pixels) {
                const __m256i w0 = load(w, half), w1 = load(w + 1, half);
                RBSF_UNROLL
                for (int p = 0; p < P; ++p) {
                    const __m256i q = _mm256_xor_si256(w0, broadcast(x + 2 * p));
                    const __m256i r = _mm256_xor_si256(w1, broadcast(x + 2 * p + 1));
                    const __m256i carry =
                        _mm256_or_si256(_mm256_andnot_si256(r, q), _mm256_andnot_si256(q, last[p]));
                    bytes[p] = _mm256_add_epi8(bytes[p], popcount(carry));
                    last[p] = r;
                }
            }
            RBSF_UNROLL
            for (int p = 0; p < P; ++p)
                sum[p] = _mm256_add_epi64(sum[p], _mm256_sad_epu8(bytes[p], zero));
        }
        RBSF_UNROLL
        for (int p = 0; p < P; ++p)
            count[p] = _mm256_add_epi64(_mm256_add_epi64(sum[p], sum[p]),
                                        _mm256_sad_epu8(popcount(last[p]), zero));
    }
};

}  // namespace rbsf
#endif
