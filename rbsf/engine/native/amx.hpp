// AMX: the first layer by 8-bit matrix products of 16 pixels x 16 filters; the rest as with AVX-512.

#pragma once

#include "avx512.hpp"

#if defined(__linux__) && defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define RBSF_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>

#define RBSF_AMX __attribute__((target("amx-tile,amx-int8,avx512f,avx512bw")))

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

    struct alignas(64) Config {
        uint8_t palette = 1, start = 0, unused[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    };

    RBSF_AMX static void pixels_row(const PixelsRow& row) {
        const size_t steps = row.lines / row.rows;  // of 4 bytes in a window's row
        if (steps > 16 || row.pixels < 32) return kernels<Avx512>("").pixels(row);
        Config config;
        for (int tile = 0; tile < 8; ++tile) {
            config.row_bytes[tile] = static_cast<uint16_t>(tile == 4 || tile == 5 ? 4 * steps : 64);
            config.rows[tile] = static_cast<uint8_t>(tile < 6 ? 16 : steps);
        }
        _tile_loadconfig(&config);
        for (size_t block = 0; block < row.blocks; block += 2) {
            const size_t second = block + 1 < row.blocks ? block + 1 : block;
            for (size_t pixel = 0; pixel < row.pixels; pixel += 32)  // the last ones may overlap
                square(row, steps, block, second, pixel + 32 <= row.pixels ? pixel : row.pixels - 32);
        }
        _tile_release();
    }

  private:
    // 32 pixels x 2 blocks of 16 filters.  Tiles: 0..3 sums, 4, 5 pixels, 6, 7 weights.
    RBSF_AMX static void square(const PixelsRow& row, size_t steps, size_t block, size_t second, size_t pixel) {
        const uint8_t* window = row.image + pixel * row.pixel_step;
        const Line *a = row.natural + block * row.lines, *b = row.natural + second * row.lines;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (size_t y = 0; y < row.rows; ++y, window += row.row_step, a += steps, b += steps) {
            _tile_loadd(4, window, row.pixel_step);
            _tile_loadd(6, a, 64);
            _tile_dpbusd(0, 4, 6);
            _tile_loadd(7, b, 64);
            _tile_dpbusd(1, 4, 7);
            _tile_loadd(5, window + 16 * row.pixel_step, row.pixel_step);
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
        }
        Line sums[4][16];
        _tile_stored(0, sums[0], 64);
        _tile_stored(1, sums[1], 64);
        _tile_stored(2, sums[2], 64);
        _tile_stored(3, sums[3], 64);
        for (int i = 0; i < 4; ++i) compare(row, i % 2 ? second : block, pixel + i / 2 * 16, sums[i]);
    }

    RBSF_AMX static void compare(const PixelsRow& row, size_t block, size_t pixel, const Line* sums) {
        const __m512i limit = _mm512_load_si512(row.limits + block);
        uint8_t *low = row.out[2 * block] + pixel * row.out_step, *high = row.out[2 * block + 1] + pixel * row.out_step;
        for (int p = 0; p < 16; ++p, low += row.out_step, high += row.out_step) {
            const unsigned bits = _mm512_cmpge_epi32_mask(_mm512_load_si512(sums + p), limit);
            *low = static_cast<uint8_t>(bits);
            *high = static_cast<uint8_t>(bits >> 8);
        }
    }
};

}  // namespace rbsf
#endif
