// AMX: convolutions to bits by 8-bit matrix products of 16 pixels x 16 filters, bits spread to bytes; those to numbers,
// whose sums would have to be stored and read again, and those with strides as with AVX-512.

#pragma once

#include "avx512.hpp"

#if defined(__linux__) && defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define RBSF_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>

#define RBSF_AMX __attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512vl")))

namespace rbsf {

struct Amx : Avx512 {
    static bool available() {
        static const bool granted = cpu_has_avx512() && has(cpuid(7)[3], {24, 25}) &&  // AMX-TILE, AMX-INT8
                                    has(saved_states(), {17, 18}) && request_tiles();
        return granted;
    }

    // Linux gives the 8 kB of tile registers to programs that ask.
    static bool request_tiles() {
        constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
        return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
    }

    RBSF_AMX static void spread(const uint8_t* bits, size_t bytes, uint8_t* to) {
        const __m512i one = _mm512_set1_epi8(1);
        for (; bytes >= 8; bytes -= 8, bits += 8, to += 64)
            _mm512_storeu_si512(to, _mm512_maskz_mov_epi8(load64(bits), one));
        for (; bytes > 0; --bytes, ++bits)
            for (int i = 0; i < 8; ++i) *to++ = *bits >> i & 1;
    }

    RBSF_AMX static void signs(const uint64_t* bits, size_t lines, Line* to) {
        const __m512i one = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1);
        for (size_t i = 0; i < lines; ++i) _mm512_store_si512(to + i, _mm512_mask_blend_epi8(bits[i], minus, one));
    }

    struct alignas(64) Config {
        uint8_t palette = 1, start = 0, unused[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    };

    RBSF_AMX static void bytes(const BytesRow& row) {
        Config config;
        for (int tile = 0; tile < 8; ++tile) {
            config.row_bytes[tile] = static_cast<uint16_t>(tile == 4 || tile == 5 ? 4 * row.chunk_lines : 64);
            config.rows[tile] = static_cast<uint8_t>(tile < 6 ? 16 : row.chunk_lines);
        }
        __asm__ volatile("" : : "r"(&config) : "memory");  // GCC holds that the next line reads 8 bytes only
        _tile_loadconfig(&config);
        for (size_t pixel = 0; pixel < row.pixels; pixel += 32)
            for (size_t block = 0; block < row.blocks; ++block) square(row, block, pixel);
        _tile_release();
    }

  private:
    // 32 pixels x 32 filters.  Tiles: 0..3 sums, 4, 5 pixels, 6, 7 weights.
    RBSF_AMX static void square(const BytesRow& row, size_t block, size_t pixel) {
        const uint8_t* window = row.windows + pixel * row.pixel_step;
        const size_t step = row.pixel_step, lines = row.chunk_lines;
        const Line* weights = row.weights + 2 * block * row.chunks * lines;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (size_t i = 0; i < row.chunks; ++i, weights += 2 * lines) {
            const uint8_t* from = window + row.offsets[i];
            _tile_loadd(4, from, step);
            _tile_loadd(6, weights, 64);
            _tile_dpbusd(0, 4, 6);
            _tile_loadd(7, weights + lines, 64);
            _tile_dpbusd(1, 4, 7);
            _tile_loadd(5, from + 16 * step, step);
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
        }
        Line sums[4][16];
        _tile_stored(0, sums[0], 64);
        _tile_stored(1, sums[1], 64);
        _tile_stored(2, sums[2], 64);
        _tile_stored(3, sums[3], 64);
        for (size_t i = 0; i < 4; ++i) compare(row, 2 * block + i % 2, pixel + i / 2 * 16, sums[i]);
    }

    // The results of 16 pixels and of the `half`th 16 filters.
    RBSF_AMX static void compare(const BytesRow& row, size_t half, size_t pixel, const Line* sums) {
        const __m512i limit = _mm512_load_si512(row.limits + half);
        uint8_t *low = row.out[2 * half] + pixel * row.out_step, *high = row.out[2 * half + 1] + pixel * row.out_step;
        for (int p = 0; p < 16; ++p, low += row.out_step, high += row.out_step) {
            const unsigned bits = _mm512_cmpge_epi32_mask(_mm512_load_si512(sums + p), limit);
            *low = static_cast<uint8_t>(bits);
            *high = static_cast<uint8_t>(bits >> 8);
        }
    }
};

}  // namespace rbsf
#endif
