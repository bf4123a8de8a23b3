// The arguments of kernels on maps, and the kernels of every instruction set.

#pragma once

#include <algorithm>
#include <cmath>

#include "kernels.hpp"
#include "neon.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>

#include "cpuid.hpp"
#endif

namespace rbsf {

// Bits of a row of pixels: (x >= limit) ^ flip for reals, (x > limit) ^ flip for whole numbers.
template <class T>
struct PackRow {
    const T* x;  // numbers of the first pixel; the next pixel is x_step numbers later
    size_t pixels, x_step, channels;
    const T* limits;  // [channels]
    const uint8_t* flips;
    uint8_t* out;
    size_t bytes;  // bytes of a pixel
};

// Pixels of a sum of binary convolutions.
struct SumRow {
    const int32_t* sums;  // [pixels][channels], sums of one term
    size_t pixels, channels;
    const float* scale;    // [channels]
    const float* before;   // sum of the terms before it, [pixels][channels], or null
    const float* factors;  // [pixels] or null
    const float* bias;     // [channels], or null if more terms follow
    const float* other;    // [pixels][channels] or null; may be `out` itself
    float* out;            // may be `before`
};

// The value of a number before it is rounded: factor * prelu(scale * x + bias), clipped to +-limit.
struct Rounding {
    const float *scale, *bias, *slope;  // [channels]
    float factor, limit;
};

// Pixels with numbers to round.
template <class In, class Out>
struct RoundRow {
    const In* x;  // [pixels][channels]
    size_t pixels, channels;
    Rounding rounding;
    Out* out;
};

// Pixels of up to 8 channels of a binary convolution; sums are rounded and added to whole numbers.
struct StepsRow {
    const int32_t* counts;  // [pixels][8]: the number of products that are -1
    int32_t products;
    size_t pixels, channels, step;  // step: distance between pixels of `other` and `out`
    Rounding rounding;
    const int16_t* other;  // may be `out` itself
    int16_t* out;
};

template <class In>
struct PoolRow {
    const In* in;  // the whole map
    size_t width, channels, kernel, stride, padding;
    size_t top, bottom;  // rows of the window
    size_t pixels;       // pixels of the output
    const float* areas;  // [pixels], divisors for means; null for the largest value
    float* out;
};

// A convolution of reals or of whole numbers. Weights of whole numbers are in pairs, so `run` is
// even.
template <class In, class Sum>
struct ConvRow {
    const In* x;  // the first window's corner; the next window is x_step numbers later
    size_t pixels, x_step;
    const size_t* offsets;  // [runs]: the starts of the pieces of a window, `run` numbers each
    size_t runs, run;
    const In*
        weights;  // reals [blocks][runs * run][16], whole numbers [blocks][runs * run / 2][16][2]
    const Sum* bias;  // [blocks][16]
    size_t blocks, channels;
    Sum* out;
    size_t out_step;
};

struct MapKernels {
    void (*pack)(const PackRow<float>&);
    void (*sum)(const SumRow&);
    void (*pool)(const PoolRow<float>&);
    void (*pool_whole)(const PoolRow<int16_t>&);
    void (*conv)(const ConvRow<float, float>&);
    void (*conv_whole)(const ConvRow<int16_t, int32_t>&);
    void (*pack_whole)(const PackRow<int16_t>&);
    void (*steps)(const StepsRow&);
    void (*sums_to_16)(const RoundRow<int32_t, int16_t>&);
    void (*sums_to_8)(const RoundRow<int32_t, int8_t>&);
    void (*real_to_16)(const RoundRow<float, int16_t>&);
    void (*real_to_8)(const RoundRow<float, int8_t>&);
    void (*whole_to_8)(const RoundRow<int16_t, int8_t>&);
};

#if defined(_MSC_VER) && !defined(__clang__)
#define RBSF_WITH(features)
#else
#define RBSF_WITH(features) __attribute__((target(features)))
#endif

#if defined(__x86_64__) || defined(_M_X64)
inline bool cpu_has_fma() {
    static const bool found = has(cpuid(1)[2], {12});
    return found;
}

namespace with_avx512 {
#define RBSF_TARGET RBSF_WITH("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define RBSF_LANES 16
#define RBSF_BLOCKS 4
#include "map_kernels.hpp"
}  // namespace with_avx512

namespace with_avx2 {
#define RBSF_TARGET RBSF_WITH("avx2,fma")
#define RBSF_LANES 8
#define RBSF_BLOCKS 1
#include "map_kernels.hpp"
}  // namespace with_avx2
#endif

#if defined(__aarch64__) || defined(_M_ARM64)
namespace with_neon {
#define RBSF_TARGET
#define RBSF_LANES 4
#define RBSF_BLOCKS 1
#include "map_kernels.hpp"
}  // namespace with_neon
#endif

namespace with_scalar {
#define RBSF_TARGET
#define RBSF_LANES 1
#define RBSF_BLOCKS 1
#include "map_kernels.hpp"
}  // namespace with_scalar

#undef RBSF_WITH

}  // namespace rbsf
