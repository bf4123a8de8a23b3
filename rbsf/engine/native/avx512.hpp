// AVX-512 with VPOPCNTDQ and VNNI. A register holds one word for each of 8 filters, or 4 weights
// for each of 16 filters.

#pragma once

#include "kernels.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>

#include "cpuid.hpp"

#if defined(_MSC_VER) && !defined(__clang__)
#define RBSF_AVX512
#else
#define RBSF_AVX512 \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx512vnni")))
#endif

// Keeps the compiler from computing one pointer from another. Then every word is at a constant
// distance from one of the two pointers.
#if defined(__GNUC__)
#define RBSF_OPAQUE(pointer) __asm__("" : "+r"(pointer))
#else
#define RBSF_OPAQUE(pointer)
#endif

namespace rbsf {

struct Avx512 {
    // A pixel needs 2 registers, for its sum and its parity, so 12 pixels need 24 of 32.
    static constexpr int PIXELS = 12, U8_PIXELS = 8, U8_BLOCKS = 3;

    static bool available() { return cpu_has_avx512(); }

    template <int P>
    RBSF_AVX512 static void bits(const BitsRow& row, size_t block, size_t pixel) {
        const bool odd = row.words & 1;
        const Line *w = row.weights + block * row.words, *end = w + row.words;
        __m512i sum[P], last[P];
        RBSF_UNROLL
        for (int p = 0; p < P; ++p) {
            sum[p] = last[p] = _mm512_setzero_si512();
            if (odd) last[p] = differing(load(w), row.windows + pixel + p);
        }
        const uint64_t* x = row.windows + odd * row.pixels + 2 * pixel;
        w += odd;
        const size_t step = 2 * row.pixels;
        const uint64_t* y = x + step;
        // Two pairs at a time, so that no parity has to be copied.
        for (; end - w >= 4; w += 4, x += 2 * step, y += 2 * step) {
            RBSF_OPAQUE(y);
            const __m512i w0 = load(w), w1 = load(w + 1), w2 = load(w + 2), w3 = load(w + 3);
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) {
                const __m512i between = differing(w1, x + 2 * p + 1);
                const __m512i first = carry(differing(w0, x + 2 * p), between, last[p]);
                last[p] = differing(w3, y + 2 * p + 1);
                const __m512i second = carry(differing(w2, y + 2 * p), last[p], between);
                sum[p] = _mm512_add_epi64(sum[p], _mm512_popcnt_epi64(first));
                sum[p] = _mm512_add_epi64(sum[p], _mm512_popcnt_epi64(second));
            }
        }
        if (w < end) {
            const __m512i w0 = load(w), w1 = load(w + 1);
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) {
                const __m512i r = differing(w1, x + 2 * p + 1);
                sum[p] = _mm512_add_epi64(
                    sum[p], _mm512_popcnt_epi64(carry(differing(w0, x + 2 * p), r, last[p])));
                last[p] = r;
            }
        }
        RBSF_UNROLL
        for (int p = 0; p < P; ++p)
            sum[p] =
                _mm512_add_epi64(_mm512_add_epi64(sum[p], sum[p]), _mm512_popcnt_epi64(last[p]));
        if (row.counts) {
            __m256i* out = reinterpret_cast<__m256i*>(row.counts) + block * row.pixels + pixel;
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) _mm256_storeu_si256(out + p, _mm512_cvtepi64_epi32(sum[p]));
        } else {
            const __m512i limit = load(row.limits + block);
            const size_t out_step = row.out_step;
            uint8_t* out = row.out[block] + pixel * out_step;
            RBSF_UNROLL
            for (int p = 0; p < P; ++p, out += out_step)
                _store_mask8(out, _mm512_cmple_epi64_mask(sum[p], limit));
        }
    }

    template <int P, int B>
    RBSF_AVX512 static void pixels(const PixelsRow& row, size_t block, size_t pixel) {
        const uint8_t* window = row.image + pixel * row.pixel_step;
        const Line* w = row.weights + block * row.lines;
        __m512i sum[P][B];
        RBSF_UNROLL
        for (int p = 0; p < P; ++p) RBSF_UNROLL
        for (int b = 0; b < B; ++b) sum[p][b] = _mm512_setzero_si512();
        for (size_t i = 0; i < row.lines; ++i) {
            const uint8_t* from = window + row.offsets[i];
            __m512i weight[B];
            RBSF_UNROLL
            for (int b = 0; b < B; ++b) weight[b] = load(w + b * row.lines + i);
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) {
                const __m512i four =
                    _mm512_set1_epi32(static_cast<int>(load32(from + p * row.pixel_step)));
                RBSF_UNROLL
                for (int b = 0; b < B; ++b)
                    sum[p][b] = _mm512_dpbusd_epi32(sum[p][b], four, weight[b]);
            }
        }
        RBSF_UNROLL
        for (int b = 0; b < B; ++b) {
            const __m512i limit = load(row.limits + block + b);
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) {
                const unsigned bits = _mm512_cmpge_epi32_mask(sum[p][b], limit);
                row.out[2 * (block + b)][(pixel + p) * row.out_step] = static_cast<uint8_t>(bits);
                row.out[2 * (block + b) + 1][(pixel + p) * row.out_step] =
                    static_cast<uint8_t>(bits >> 8);
            }
        }
    }

    // Do 16 popcounts in registers, `loops` times; if `all`, with an XOR before and a sum after
    // each.
    template <bool all>
    RBSF_AVX512 static uint64_t count_registers(size_t loops) {
        __m512i sum[16];
        const __m512i word = _mm512_set1_epi64(static_cast<long long>(loops));
        RBSF_UNROLL
        for (int i = 0; i < 16; ++i) sum[i] = _mm512_set1_epi64(i);
        for (; loops > 0; --loops) RBSF_UNROLL
        for (int i = 0; i < 16; ++i)
            sum[i] =
                all ? _mm512_add_epi64(sum[i], _mm512_popcnt_epi64(_mm512_xor_epi64(sum[i], word)))
                    : _mm512_popcnt_epi64(sum[i]);
        uint64_t total = 0;
        RBSF_UNROLL
        for (int i = 0; i < 16; ++i)
            total += static_cast<uint64_t>(_mm512_reduce_add_epi64(sum[i]));
        return total;
    }

  private:
    RBSF_AVX512 static __m512i load(const Line* line) { return _mm512_load_si512(line); }
    RBSF_AVX512 static __m512i differing(__m512i weights, const uint64_t* word) {
        return _mm512_xor_epi64(weights, _mm512_set1_epi64(static_cast<long long>(*word)));
    }
    // The carry when two words are added to the parity `last`; q and r are the parities after the
    // first and the second word.
    RBSF_AVX512 static __m512i carry(__m512i q, __m512i r, __m512i last) {
        return _mm512_ternarylogic_epi64(q, r, last, 0x3a);  // q ? ~r : last
    }
};

}  // namespace rbsf
#endif
