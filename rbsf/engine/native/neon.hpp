// ARM NEON, available on every 64-bit ARM. It uses popcounts of bytes, and products of signed bytes
// in the first layer.

#pragma once

#include "kernels.hpp"

#if defined(__aarch64__) || defined(_M_ARM64)
#include <arm_neon.h>

namespace rbsf {

struct Neon {
    static constexpr int PIXELS = 4, U8_PIXELS = 4, U8_BLOCKS = 1;

    static bool available() { return true; }

    template <int P>
    static void bits(const BitsRow& row, size_t block, size_t pixel) {
        unsigned bits[P] = {};
        for (int quarter = 0; quarter < 4; ++quarter) {  // a register has a word of 2 filters
            uint64x2_t count[P];
            count_quarter<P>(row, block, pixel, quarter, count);
            const int64x2_t limit = vreinterpretq_s64_u64(load(row.limits + block, quarter));
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) {
                const uint64x2_t set = vcleq_s64(vreinterpretq_s64_u64(count[p]), limit);
                bits[p] |= static_cast<unsigned>((vgetq_lane_u64(set, 0) & 1) |
                                                 (vgetq_lane_u64(set, 1) & 2))
                           << 2 * quarter;
                if (row.counts) {
                    int32_t* out = row.counts + (block * row.pixels + pixel + p) * 8 + 2 * quarter;
                    vst1_s32(out, vmovn_s64(vreinterpretq_s64_u64(count[p])));
                }
            }
        }
        for (int p = 0; p < P && !row.counts; ++p)
            row.out[block][(pixel + p) * row.out_step] = static_cast<uint8_t>(bits[p]);
    }

    // Pixels are used as signed numbers, pixel - 128. This leaves out 128 times the sum of the
    // weights, so that is added first.
    template <int P, int B>
    static void pixels(const PixelsRow& row, size_t block, size_t pixel) {
        const uint8_t* window = row.image + pixel * row.pixel_step;
        const Line* w = row.weights + block * row.lines;
        for (int quarter = 0; quarter < 4; ++quarter) {  // a register has 4 bytes of 4 filters
            int32x4_t sum[P];
            int32x4_t left_out = vdupq_n_s32(0);
            for (size_t i = 0; i < row.lines; ++i)
                left_out = add_pairs(left_out, weights(w + i, quarter), vdupq_n_s8(1));
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) sum[p] = vshlq_n_s32(left_out, 7);
            for (size_t i = 0; i < row.lines; ++i) {
                const int8x16_t weight = weights(w + i, quarter);
                const uint8_t* from = window + row.offsets[i];
                RBSF_UNROLL
                for (int p = 0; p < P; ++p) {
                    const uint32_t four = load32(from + p * row.pixel_step) ^ 0x80808080u;
                    sum[p] = add_pairs(sum[p], weight, vreinterpretq_s8_u32(vdupq_n_u32(four)));
                }
            }
            int32x4_t limit;
            std::memcpy(&limit, reinterpret_cast<const char*>(row.limits + block) + 16 * quarter,
                        16);
            for (int p = 0; p < P; ++p) {
                const uint32x4_t places = {1, 2, 4, 8};
                const unsigned bits = vaddvq_u32(vandq_u32(vcgeq_s32(sum[p], limit), places));
                uint8_t& out = row.out[2 * block + quarter / 2][(pixel + p) * row.out_step];
                out = static_cast<uint8_t>(quarter % 2 ? out | bits << 4 : bits);
            }
        }
    }

  private:
    static uint64x2_t load(const Line* line, int quarter) {
        return vld1q_u64(line->word + 2 * quarter);
    }
    static int8x16_t weights(const Line* line, int quarter) {
        return vreinterpretq_s8_u64(load(line, quarter));
    }

    // Add the products of each 4 bytes to `sum`; two products of 128 * 63 fit 16 bits.
    static int32x4_t add_pairs(int32x4_t sum, int8x16_t a, int8x16_t b) {
        const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
        const int16x8_t high = vmull_high_s8(a, b);
        return vpadalq_s16(sum, vpaddq_s16(low, high));
    }

    static uint64x2_t wide(uint8x16_t bytes) { return vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(bytes))); }

    // Counts of 2 filters, in 64 bits each.
    template <int P>
    static void count_quarter(const BitsRow& row, size_t block, size_t pixel, int quarter,
                              uint64x2_t (&count)[P]) {
        const bool odd = row.words & 1;
        const Line *w = row.weights + block * row.words, *end = w + row.words;
        uint64x2_t sum[P], last[P];
        RBSF_UNROLL
        for (int p = 0; p < P; ++p) {
            sum[p] = last[p] = vdupq_n_u64(0);
            if (odd) last[p] = veorq_u64(load(w, quarter), vdupq_n_u64(row.windows[pixel + p]));
        }
        const uint64_t* x = row.windows + odd * row.pixels + 2 * pixel;
        for (w += odd; w < end;) {
            const Line* stop = end - w > 62 ? w + 62 : end;  // 31 pairs of up to 8 bits fit a byte
            uint8x16_t bytes[P];
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) bytes[p] = vdupq_n_u8(0);
            for (; w < stop; w += 2, x += 2 * row.pixels) {
                const uint64x2_t w0 = load(w, quarter), w1 = load(w + 1, quarter);
                RBSF_UNROLL
                for (int p = 0; p < P; ++p) {
                    const uint64x2_t q = veorq_u64(w0, vdupq_n_u64(x[2 * p]));
                    const uint64x2_t r = veorq_u64(w1, vdupq_n_u64(x[2 * p + 1]));
                    const uint64x2_t carry = vorrq_u64(vbicq_u64(q, r), vbicq_u64(last[p], q));
                    bytes[p] = vaddq_u8(bytes[p], vcntq_u8(vreinterpretq_u8_u64(carry)));
                    last[p] = r;
                }
            }
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) sum[p] = vaddq_u64(sum[p], wide(bytes[p]));
        }
        RBSF_UNROLL
        for (int p = 0; p < P; ++p)
            count[p] =
                vaddq_u64(vaddq_u64(sum[p], sum[p]), wide(vcntq_u8(vreinterpretq_u8_u64(last[p]))));
    }
};

}  // namespace rbsf
#endif
