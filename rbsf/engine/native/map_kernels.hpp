// Kernels on maps [H, W, C], one row at a time.
//
// map_rows.hpp includes this file once for each instruction set, inside a namespace of that name,
// so it has no include guard. These macros must be set: RBSF_TARGET (the attribute of the
// functions), RBSF_LANES (floats in a vector) and RBSF_BLOCKS (blocks of 16 filters in a tile).
//
// Every instruction set gives the same numbers. Real convolutions always add in the same order, and
// each step is a fused multiply-add, which IEEE 754 defines to the bit. All other products and sums
// are rounded one by one.

// A vector holds RBSF_LANES sums, real or whole. `add_products` adds products to each lane: the
// lane's own weight times the number at `x`, or its two whole weights times the two whole numbers
// at `x`. `Weights` holds the weights of all lanes.
#if RBSF_LANES == 16
using Vector = __m512;
using WholeVector = __m512i;
using Weights = Vector;
using WholeWeights = WholeVector;
RBSF_TARGET inline Vector load(const float* x) { return _mm512_loadu_ps(x); }
RBSF_TARGET inline WholeVector load(const int32_t* x) { return _mm512_loadu_si512(x); }
RBSF_TARGET inline Weights load_weights(const float* w) { return _mm512_loadu_ps(w); }
RBSF_TARGET inline WholeWeights load_weights(const int16_t* w) { return _mm512_loadu_si512(w); }
RBSF_TARGET inline void store(float* x, Vector v) { _mm512_storeu_ps(x, v); }
RBSF_TARGET inline void store(int32_t* x, WholeVector v) { _mm512_storeu_si512(x, v); }
RBSF_TARGET inline Vector add_products(Vector sum, const float* x, Weights w) {
    return _mm512_fmadd_ps(_mm512_set1_ps(*x), w, sum);
}
RBSF_TARGET inline WholeVector add_products(WholeVector sum, const int16_t* x, WholeWeights w) {
    const WholeVector two = _mm512_set1_epi32(static_cast<int>(load32(x)));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(two, w));
}
#elif RBSF_LANES == 8
using Vector = __m256;
using WholeVector = __m256i;
using Weights = Vector;
using WholeWeights = WholeVector;
RBSF_TARGET inline WholeVector load_whole(const void* x) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(x));
}
RBSF_TARGET inline Vector load(const float* x) { return _mm256_loadu_ps(x); }
RBSF_TARGET inline WholeVector load(const int32_t* x) { return load_whole(x); }
RBSF_TARGET inline Weights load_weights(const float* w) { return _mm256_loadu_ps(w); }
RBSF_TARGET inline WholeWeights load_weights(const int16_t* w) { return load_whole(w); }
RBSF_TARGET inline void store(float* x, Vector v) { _mm256_storeu_ps(x, v); }
RBSF_TARGET inline void store(int32_t* x, WholeVector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), v);
}
RBSF_TARGET inline Vector add_products(Vector sum, const float* x, Weights w) {
    return _mm256_fmadd_ps(_mm256_set1_ps(*x), w, sum);
}
RBSF_TARGET inline WholeVector add_products(WholeVector sum, const int16_t* x, WholeWeights w) {
    const WholeVector two = _mm256_set1_epi32(static_cast<int>(load32(x)));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(two, w));
}
#elif RBSF_LANES == 4
using Vector = float32x4_t;
using WholeVector = int32x4_t;
using Weights = Vector;
using WholeWeights = int16x4x2_t;
inline Vector load(const float* x) { return vld1q_f32(x); }
inline WholeVector load(const int32_t* x) { return vld1q_s32(x); }
inline Weights load_weights(const float* w) { return vld1q_f32(w); }
inline WholeWeights load_weights(const int16_t* w) { return vld2_s16(w); }
inline void store(float* x, Vector v) { vst1q_f32(x, v); }
inline void store(int32_t* x, WholeVector v) { vst1q_s32(x, v); }
inline Vector add_products(Vector sum, const float* x, Weights w) {
    return vfmaq_n_f32(sum, w, *x);
}
inline WholeVector add_products(WholeVector sum, const int16_t* x, WholeWeights w) {
    return vmlal_n_s16(vmlal_n_s16(sum, w.val[0], x[0]), w.val[1], x[1]);
}
#else
using Vector = float;
using WholeVector = int32_t;
using Weights = Vector;
using WholeWeights = const int16_t*;
inline Vector load(const float* x) { return *x; }
inline WholeVector load(const int32_t* x) { return *x; }
inline Weights load_weights(const float* w) { return *w; }
inline WholeWeights load_weights(const int16_t* w) { return w; }
inline void store(float* x, Vector v) { *x = v; }
inline void store(int32_t* x, WholeVector v) { *x = v; }
inline Vector add_products(Vector sum, const float* x, Weights w) { return std::fma(*x, w, sum); }
inline WholeVector add_products(WholeVector sum, const int16_t* x, WholeWeights w) {
    return sum + x[0] * w[0] + x[1] * w[1];
}
#endif

// Bits (x >= threshold) ^ flip of a row of pixels, 8 channels per byte. Unused bits of a last byte
// are 0.
RBSF_TARGET inline void pack_row(const PackRow<float>& row) {
    for (size_t p = 0; p < row.pixels; ++p) {
        const float* x = row.x + p * row.x_step;
        uint8_t* out = row.out + p * row.bytes;
        size_t c = 0;
#if RBSF_LANES == 16
        for (; c + 16 <= row.channels; c += 16) {
            uint16_t bits;
            std::memcpy(&bits, row.flips + c / 8, 2);
            bits ^= static_cast<uint16_t>(
                _mm512_cmp_ps_mask(load(x + c), load(row.limits + c), _CMP_GE_OQ));
            std::memcpy(out + c / 8, &bits, 2);
        }
#elif RBSF_LANES == 8
        for (; c + 8 <= row.channels; c += 8) {
            const Vector above = _mm256_cmp_ps(load(x + c), load(row.limits + c), _CMP_GE_OQ);
            out[c / 8] = static_cast<uint8_t>(row.flips[c / 8] ^ _mm256_movemask_ps(above));
        }
#endif
        for (; c < row.channels; c += 8) {
            unsigned bits = row.flips[c / 8];
            for (size_t i = 0; i < 8 && c + i < row.channels; ++i)
                bits ^= static_cast<unsigned>(x[c + i] >= row.limits[c + i]) << i;
            out[c / 8] = static_cast<uint8_t>(bits);
        }
    }
}

RBSF_TARGET inline void pack_whole_row(const PackRow<int16_t>& row) {
    for (size_t p = 0; p < row.pixels; ++p) {
        const int16_t* x = row.x + p * row.x_step;
        uint8_t* out = row.out + p * row.bytes;
        size_t c = 0;
#if RBSF_LANES >= 8
        for (; c + 16 <= row.channels; c += 16) {
            const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + c));
            const __m256i limits =
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row.limits + c));
            const __m256i above = _mm256_cmpgt_epi16(values, limits);
            const __m128i bytes =
                _mm_packs_epi16(_mm256_castsi256_si128(above), _mm256_extracti128_si256(above, 1));
            uint16_t bits;
            std::memcpy(&bits, row.flips + c / 8, 2);
            bits ^= static_cast<uint16_t>(_mm_movemask_epi8(bytes));
            std::memcpy(out + c / 8, &bits, 2);
        }
#endif
        for (; c < row.channels; c += 8) {
            unsigned bits = row.flips[c / 8];
            for (size_t i = 0; i < 8 && c + i < row.channels; ++i)
                bits ^= static_cast<unsigned>(x[c + i] > row.limits[c + i]) << i;
            out[c / 8] = static_cast<uint8_t>(bits);
        }
    }
}

// 1.5 * 2^23: adding a number to this rounds it to a whole number, halves to even.
constexpr float WHOLE = 12582912.0f;

RBSF_TARGET inline int32_t rounded(float x, float scale, float bias, float slope, float factor,
                                   float limit) {
    float value = scale * x;
    value = value + bias;
    const float sloped = value * slope;
    value = value >= 0 ? value : sloped;
    value = value * factor;
    value = value < -limit ? -limit : value;
    value = value > limit ? limit : value;
    return static_cast<int32_t>((value + WHOLE) - WHOLE);
}

#if RBSF_LANES >= 8
// The same for 8 numbers. Zeros may differ in sign, which rounding removes.
RBSF_TARGET inline __m128i rounded(__m256 x, __m256 scale, __m256 bias, __m256 slope, __m256 factor,
                                   __m256 limit) {
    __m256 value = _mm256_add_ps(_mm256_mul_ps(scale, x), bias);
    const __m256 is_negative = value;
    value = _mm256_blendv_ps(value, _mm256_mul_ps(value, slope), is_negative);
    value = _mm256_mul_ps(value, factor);
    value = _mm256_max_ps(value, _mm256_sub_ps(_mm256_setzero_ps(), limit));
    const __m256i whole = _mm256_cvtps_epi32(_mm256_min_ps(value, limit));
    return _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
}

RBSF_TARGET inline __m256 load_8(const float* x) { return _mm256_loadu_ps(x); }
RBSF_TARGET inline __m256 load_8(const int32_t* x) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
RBSF_TARGET inline __m128i load_whole_8(const int16_t* x) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
}
RBSF_TARGET inline __m256 load_8(const int16_t* x) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(load_whole_8(x)));
}
RBSF_TARGET inline void store_8(int16_t* x, __m128i values) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(x), values);
}
RBSF_TARGET inline void store_8(int8_t* x, __m128i values) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(x), _mm_packs_epi16(values, values));
}
#endif

template <class In, class Out>
RBSF_TARGET inline void round_pixels(const RoundRow<In, Out>& row) {
    const float *scale = row.rounding.scale, *bias = row.rounding.bias, *slope = row.rounding.slope;
    const float factor = row.rounding.factor, limit = row.rounding.limit;
    const size_t channels = row.channels;
    const In* x = row.x;
    Out* out = row.out;
    for (size_t p = 0; p < row.pixels; ++p, x += channels, out += channels) {
        size_t c = 0;
#if RBSF_LANES >= 8
        const __m256 factors = _mm256_set1_ps(factor), limits = _mm256_set1_ps(limit);
        for (; c + 8 <= channels; c += 8)
            store_8(out + c, rounded(load_8(x + c), load_8(scale + c), load_8(bias + c),
                                     load_8(slope + c), factors, limits));
#endif
        RBSF_INDEPENDENT
        for (; c < channels; ++c)
            out[c] = static_cast<Out>(
                rounded(static_cast<float>(x[c]), scale[c], bias[c], slope[c], factor, limit));
    }
}

RBSF_TARGET inline void steps_row(const StepsRow& row) {
    const Rounding& r = row.rounding;
#if RBSF_LANES >= 8
    if (row.channels == 8) {
        const __m256 scale = load_8(r.scale), bias = load_8(r.bias), slope = load_8(r.slope),
                     factor = _mm256_set1_ps(r.factor), limit = _mm256_set1_ps(r.limit),
                     products = _mm256_set1_ps(static_cast<float>(row.products));
        for (size_t p = 0; p < row.pixels; ++p) {
            const __m256 count = load_8(row.counts + 8 * p);
            const __m256 sum = _mm256_sub_ps(products, _mm256_add_ps(count, count));
            const __m128i added = rounded(sum, scale, bias, slope, factor, limit);
            const __m128i other = load_whole_8(row.other + p * row.step);
            store_8(row.out + p * row.step, _mm_add_epi16(other, added));
        }
        return;
    }
#endif
    for (size_t p = 0; p < row.pixels; ++p) {
        const int32_t* counts = row.counts + 8 * p;
        const int16_t* other = row.other + p * row.step;
        int16_t* out = row.out + p * row.step;
        RBSF_INDEPENDENT
        for (size_t i = 0; i < row.channels; ++i) {
            const float sum = static_cast<float>(row.products - 2 * counts[i]);
            const int32_t added =
                rounded(sum, r.scale[i], r.bias[i], r.slope[i], r.factor, r.limit);
            out[i] = static_cast<int16_t>(other[i] + added);
        }
    }
}

// out = ([before +] scale * sums) [* factor of the pixel + bias [+ other]]; each step is rounded.
template <bool BEFORE, bool LAST, bool OTHER>
RBSF_TARGET inline void sum_pixels(const SumRow& row) {
    const float* bias = row.bias;
    for (size_t p = 0, at = 0; p < row.pixels; ++p) {
        const float factor = row.factors ? row.factors[p] : 1.0f;
        for (size_t c = 0; c < row.channels; ++c, ++at) {
            float value = row.scale[c] * static_cast<float>(row.sums[at]);
            if (BEFORE) value = row.before[at] + value;
            if (LAST) value = value * factor + bias[c];
            if (OTHER) value = value + row.other[at];
            row.out[at] = value;
        }
    }
}

RBSF_TARGET inline void sum_row(const SumRow& row) {
    if (!row.bias)
        (row.before ? sum_pixels<true, false, false> : sum_pixels<false, false, false>)(row);
    else if (row.other)
        (row.before ? sum_pixels<true, true, true> : sum_pixels<false, true, true>)(row);
    else
        (row.before ? sum_pixels<true, true, false> : sum_pixels<false, true, false>)(row);
}

// The largest value, or the mean, of each window of a row. Positions are processed in order; those
// outside the map are skipped.
template <class In>
RBSF_TARGET inline void pool_row(const PoolRow<In>& row) {
    for (size_t p = 0; p < row.pixels; ++p) {
        float* out = row.out + p * row.channels;
        const size_t left = p * row.stride < row.padding ? row.padding - p * row.stride : 0;
        const size_t start = p * row.stride + left - row.padding;
        const size_t end = std::min(row.width, p * row.stride + row.kernel - row.padding);
        bool first = true;
        for (size_t y = row.top; y < row.bottom; ++y) {
            for (size_t x = start; x < end; ++x, first = false) {
                const In* in = row.in + (y * row.width + x) * row.channels;
                if (first)
                    for (size_t c = 0; c < row.channels; ++c) out[c] = static_cast<float>(in[c]);
                else if (row.areas)
                    for (size_t c = 0; c < row.channels; ++c)
                        out[c] = out[c] + static_cast<float>(in[c]);
                else
                    for (size_t c = 0; c < row.channels; ++c)
                        out[c] = std::max(out[c], static_cast<float>(in[c]));
            }
        }
        if (row.areas)
            for (size_t c = 0; c < row.channels; ++c) out[c] = out[c] / row.areas[p];
    }
}

// A convolution of P pixels x B blocks of 16 filters. A lane has the weights for STEP numbers at a
// time.
template <class In, class Sum, int P, int B>
RBSF_TARGET inline void conv_tile(const ConvRow<In, Sum>& row, size_t block, size_t pixel) {
    constexpr int V = B * 16 / RBSF_LANES, PER = 16 / RBSF_LANES, STEP = sizeof(Sum) / sizeof(In);
    const In* w = row.weights + block * row.runs * row.run * 16;
    const size_t w_step = row.runs * row.run * 16;  // distance to the next block
    decltype(load(row.bias)) sum[P][V];
    RBSF_UNROLL
    for (int v = 0; v < V; ++v) {
        const auto bias = load(row.bias + 16 * block + v * RBSF_LANES);
        RBSF_UNROLL
        for (int p = 0; p < P; ++p) sum[p][v] = bias;
    }
    for (size_t r = 0; r < row.runs; ++r) {
        const In* x = row.x + pixel * row.x_step + row.offsets[r];
        for (size_t i = 0; i < row.run; i += STEP, w += 16 * STEP) {
            decltype(load_weights(w)) weight[V];
            RBSF_UNROLL
            for (int v = 0; v < V; ++v)
                weight[v] = load_weights(w + v / PER * w_step + v % PER * RBSF_LANES * STEP);
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) {
                RBSF_UNROLL
                for (int v = 0; v < V; ++v)
                    sum[p][v] = add_products(sum[p][v], x + p * row.x_step + i, weight[v]);
            }
        }
    }
    const size_t valid = std::min<size_t>(16 * B, row.channels - 16 * block);
    RBSF_UNROLL
    for (int p = 0; p < P; ++p) {
        Sum* out = row.out + (pixel + p) * row.out_step + 16 * block;
        Sum values[16 * B];
        Sum* to = valid == 16 * B ? out : values;
        RBSF_UNROLL
        for (int v = 0; v < V; ++v) store(to + v * RBSF_LANES, sum[p][v]);
        if (to == values) std::memcpy(out, values, valid * sizeof(Sum));
    }
}

template <class In, class Sum, size_t... I>
inline void conv_tiles(const ConvRow<In, Sum>& row, std::index_sequence<I...>) {
    static const std::array<Tile<ConvRow<In, Sum>>, sizeof...(I)> tiles{
        &conv_tile<In, Sum, I / RBSF_BLOCKS + 1, I % RBSF_BLOCKS + 1>...};
    cover<6, RBSF_BLOCKS>(row, tiles);
}

template <class In, class Sum>
inline void conv_row(const ConvRow<In, Sum>& row) {
    conv_tiles(row, std::make_index_sequence<6 * RBSF_BLOCKS>());
}

constexpr MapKernels table{&pack_row,
                           &sum_row,
                           &pool_row<float>,
                           &pool_row<int16_t>,
                           &conv_row<float, float>,
                           &conv_row<int16_t, int32_t>,
                           &pack_whole_row,
                           &steps_row,
                           &round_pixels<int32_t, int16_t>,
                           &round_pixels<int32_t, int8_t>,
                           &round_pixels<float, int16_t>,
                           &round_pixels<float, int8_t>,
                           &round_pixels<int16_t, int8_t>};

#undef RBSF_TARGET
#undef RBSF_LANES
#undef RBSF_BLOCKS
