// Kernels on maps [H, W, C], a row at a time.
//
// map_rows.hpp includes this file once for each instruction set, inside a namespace of that name, so it
// has no include guard. These have to be set: RBSF_TARGET (the attribute of its functions), RBSF_LANES
// (floats in a vector) and RBSF_BLOCKS (blocks of 16 filters in a tile).
//
// Every instruction set gives the same numbers. Real convolutions add in one order, and each step is a
// fused multiply-add, which IEEE 754 defines to the bit. All other products and sums are rounded one
// by one.

#if RBSF_LANES == 16
using Vector = __m512;
RBSF_TARGET inline Vector load(const float* x) { return _mm512_loadu_ps(x); }
RBSF_TARGET inline void store(float* x, Vector v) { _mm512_storeu_ps(x, v); }
RBSF_TARGET inline Vector fma(float x, Vector w, Vector sum) { return _mm512_fmadd_ps(_mm512_set1_ps(x), w, sum); }
#elif RBSF_LANES == 8
using Vector = __m256;
RBSF_TARGET inline Vector load(const float* x) { return _mm256_loadu_ps(x); }
RBSF_TARGET inline void store(float* x, Vector v) { _mm256_storeu_ps(x, v); }
RBSF_TARGET inline Vector fma(float x, Vector w, Vector sum) { return _mm256_fmadd_ps(_mm256_set1_ps(x), w, sum); }
#elif RBSF_LANES == 4
using Vector = float32x4_t;
inline Vector load(const float* x) { return vld1q_f32(x); }
inline void store(float* x, Vector v) { vst1q_f32(x, v); }
inline Vector fma(float x, Vector w, Vector sum) { return vfmaq_n_f32(sum, w, x); }
#else
using Vector = float;
inline Vector load(const float* x) { return *x; }
inline void store(float* x, Vector v) { *x = v; }
inline Vector fma(float x, Vector w, Vector sum) { return std::fma(x, w, sum); }
#endif

// Bits (x >= threshold) ^ flip of a row of pixels, 8 channels a byte. Spare bits of a last byte are 0.
RBSF_TARGET inline void pack_row(const PackRow<float>& row) {
    for (size_t p = 0; p < row.pixels; ++p) {
        const float* x = row.x + p * row.x_step;
        uint8_t* out = row.out + p * row.bytes;
        size_t c = 0;
#if RBSF_LANES == 16
        for (; c + 16 <= row.channels; c += 16) {
            uint16_t bits;
            std::memcpy(&bits, row.flips + c / 8, 2);
            bits ^= static_cast<uint16_t>(_mm512_cmp_ps_mask(load(x + c), load(row.limits + c), _CMP_GE_OQ));
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
            const __m256i limits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row.limits + c));
            const __m256i above = _mm256_cmpgt_epi16(values, limits);
            const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(above), _mm256_extracti128_si256(above, 1));
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

template <bool OTHER, class In, class Out>
RBSF_TARGET inline void round_pixels(const RoundRow<In, Out>& row) {
    // 1.5 * 2^23: what is added to it is rounded to a whole number, half ones to the even one.
    constexpr float WHOLE = 12582912.0f;
    const float *scale = row.rounding.scale, *bias = row.rounding.bias, *slope = row.rounding.slope;
    const float factor = row.rounding.factor, low = -row.rounding.limit, high = row.rounding.limit;
    // Copies, for to the compiler an int8 that is stored might be part of `row`.
    const size_t pixels = row.pixels, channels = row.channels;
    const In* x = row.x;
    const Out* other = row.other;
    Out* out = row.out;
    for (size_t p = 0; p < pixels; ++p, x += channels, out += channels) {
        RBSF_INDEPENDENT
        for (size_t c = 0; c < channels; ++c) {
            float value = scale[c] * static_cast<float>(x[c]);
            value = value + bias[c];
            const float sloped = value * slope[c];
            value = value >= 0 ? value : sloped;
            value = value * factor;
            value = value < low ? low : value;
            value = value > high ? high : value;
            value = (value + WHOLE) - WHOLE;
            const int32_t rounded = static_cast<int32_t>(value);
            out[c] = static_cast<Out>(OTHER ? other[c] + rounded : rounded);
        }
        if (OTHER) other += channels;
    }
}

// out = ([before +] scale * sums) [* factor of the pixel + bias [+ other]], each step rounded.
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

// The largest, or the mean, of each window of a row. Positions are taken in order; those outside of the
// map are left out.
RBSF_TARGET inline void pool_row(const PoolRow& row) {
    for (size_t p = 0; p < row.pixels; ++p) {
        float* out = row.out + p * row.channels;
        const size_t left = p * row.stride < row.padding ? row.padding - p * row.stride : 0;
        const size_t start = p * row.stride + left - row.padding;
        const size_t end = std::min(row.width, p * row.stride + row.kernel - row.padding);
        bool first = true;
        for (size_t y = row.top; y < row.bottom; ++y) {
            for (size_t x = start; x < end; ++x, first = false) {
                const float* in = row.in + (y * row.width + x) * row.channels;
                if (first)
                    for (size_t c = 0; c < row.channels; ++c) out[c] = in[c];
                else if (row.areas)
                    for (size_t c = 0; c < row.channels; ++c) out[c] = out[c] + in[c];
                else
                    for (size_t c = 0; c < row.channels; ++c) out[c] = out[c] < in[c] ? in[c] : out[c];
            }
        }
        if (row.areas)
            for (size_t c = 0; c < row.channels; ++c) out[c] = out[c] / row.areas[p];
    }
}

// A real convolution of P pixels x B blocks of 16 filters.
template <int P, int B>
RBSF_TARGET inline void real_tile(const RealRow& row, size_t block, size_t pixel) {
    constexpr int V = B * 16 / RBSF_LANES, PER = 16 / RBSF_LANES;
    const float* w = row.weights + block * row.runs * row.run * 16;
    const size_t w_step = row.runs * row.run * 16;  // to the next block
    Vector sum[P][V];
    RBSF_UNROLL
    for (int v = 0; v < V; ++v) {
        const Vector bias = load(row.bias + 16 * block + v * RBSF_LANES);
        RBSF_UNROLL
        for (int p = 0; p < P; ++p) sum[p][v] = bias;
    }
    for (size_t r = 0; r < row.runs; ++r) {
        const float* x = row.x + pixel * row.x_step + row.offsets[r];
        for (size_t i = 0; i < row.run; ++i, w += 16) {
            Vector weight[V];
            RBSF_UNROLL
            for (int v = 0; v < V; ++v) weight[v] = load(w + v / PER * w_step + v % PER * RBSF_LANES);
            RBSF_UNROLL
            for (int p = 0; p < P; ++p) {
                RBSF_UNROLL
                for (int v = 0; v < V; ++v) sum[p][v] = fma(x[p * row.x_step + i], weight[v], sum[p][v]);
            }
        }
    }
    const size_t valid = std::min<size_t>(16 * B, row.channels - 16 * block);
    RBSF_UNROLL
    for (int p = 0; p < P; ++p) {
        float* out = row.out + (pixel + p) * row.out_step + 16 * block;
        float values[16 * B];
        float* to = valid == 16 * B ? out : values;
        RBSF_UNROLL
        for (int v = 0; v < V; ++v) store(to + v * RBSF_LANES, sum[p][v]);
        if (to == values) std::memcpy(out, values, valid * sizeof(float));
    }
}

template <size_t... I>
inline void real_row(const RealRow& row, std::index_sequence<I...>) {
    static const std::array<Tile<RealRow>, sizeof...(I)> tiles{&real_tile<I / RBSF_BLOCKS + 1, I % RBSF_BLOCKS + 1>...};
    cover<6, RBSF_BLOCKS>(row, tiles);
}

constexpr MapKernels table{
    &pack_row, &sum_row, &pool_row,
    [](const RealRow& row) { real_row(row, std::make_index_sequence<6 * RBSF_BLOCKS>()); },
    &pack_whole_row,
    &round_pixels<true, int32_t, int16_t>,
    &round_pixels<false, float, int16_t>,
    &round_pixels<false, float, int8_t>,
    &round_pixels<false, int16_t, int8_t>};

#undef RBSF_TARGET
#undef RBSF_LANES
#undef RBSF_BLOCKS
