// Which vector instructions this x86-64 machine and its operating system offer.

#pragma once

#if defined(_MSC_VER) && !defined(__clang__)
#include <immintrin.h>
#include <intrin.h>

namespace rbsf {

inline bool os_saves(unsigned long long registers) {
    int info[4];
    __cpuid(info, 1);
    return (info[2] >> 27 & 1) && (_xgetbv(0) & registers) == registers;
}

inline bool cpu_has_avx2() {
    int info[4];
    __cpuidex(info, 7, 0);
    return os_saves(0x6) && (info[1] >> 5 & 1);
}

inline bool cpu_has_avx512() {
    int info[4];
    __cpuidex(info, 7, 0);
    const int ebx = 1 << 16 | 1 << 17 | 1 << 30;                // F, DQ, BW
    const bool vl = info[1] >> 31 & 1;                          //
    const int ecx = 1 << 11 | 1 << 14;                          // VNNI, VPOPCNTDQ
    return os_saves(0xe6) && vl && (info[1] & ebx) == ebx && (info[2] & ecx) == ecx;
}

}  // namespace rbsf
#else
namespace rbsf {

inline bool cpu_has_avx2() { return __builtin_cpu_supports("avx2"); }

inline bool cpu_has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni");
}

}  // namespace rbsf
#endif
