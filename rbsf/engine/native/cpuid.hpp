// The vector instructions that this x86-64 machine offers and its operating system supports.

#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#endif

namespace rbsf {

// Registers eax, ebx, ecx, edx of a leaf; zeros if there is no such leaf.
inline std::array<uint32_t, 4> cpuid(uint32_t leaf) {
    std::array<uint32_t, 4> r{};
#if defined(_MSC_VER)
    int info[4];
    __cpuid(info, 0);
    if (static_cast<uint32_t>(info[0]) < leaf) return r;
    __cpuidex(info, static_cast<int>(leaf), 0);
    for (int i = 0; i < 4; ++i) r[i] = static_cast<uint32_t>(info[i]);
#else
    __get_cpuid_count(leaf, 0, &r[0], &r[1], &r[2], &r[3]);
#endif
    return r;
}

inline bool has(uint32_t bits, std::initializer_list<int> wanted) {
    for (int bit : wanted)
        if (!(bits >> bit & 1)) return false;
    return true;
}

// The register states that the operating system saves, as bits: 1 SSE; 2 AVX; 5, 6, 7 AVX-512.
inline uint32_t saved_states() {
    if (!has(cpuid(1)[2], {27})) return 0;
#if defined(_MSC_VER)
    return static_cast<uint32_t>(_xgetbv(0));
#else
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
#endif
}

// Computed once: under a hypervisor cpuid takes as long as a layer of a small network.
inline bool cpu_has_avx2() {
    static const bool found = has(saved_states(), {1, 2}) && has(cpuid(7)[1], {5});
    return found;
}

inline bool cpu_has_avx512() {
    static const bool found = has(saved_states(), {1, 2, 5, 6, 7}) &&
                              has(cpuid(7)[1], {16, 17, 30, 31}) &&  // F, DQ, BW, VL
                              has(cpuid(7)[2], {11, 14});            // VNNI, VPOPCNTDQ
    return found;
}

}  // namespace rbsf
