// The instruction sets of this build, and those that this machine supports.

#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "amx.hpp"
#include "avx2.hpp"
#include "avx512.hpp"
#include "kernels.hpp"
#include "neon.hpp"
#include "scalar.hpp"

namespace rbsf {
namespace {

const Kernels ALL[] = {
#if defined(RBSF_HAS_AMX)
    {"amx", &Amx::available, &bits_row<Avx512>, nullptr, nullptr, nullptr, &Amx::bytes,
     &Amx::spread, &Amx::signs},
#endif
#if defined(__x86_64__) || defined(_M_X64)
    kernels<Avx512>("avx512"),
    {"avx2", &Avx2::available, &bits_row<Scalar>, &pixels_row<Avx2>, &nibbles_row<Avx2>,
     &Avx2::put_nibbles},
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
    kernels<Neon>("neon"),
#endif
    kernels<Scalar>("scalar"),
};

// Computed once: in a virtual machine every CPUID takes tens of microseconds.
const std::vector<const Kernels*>& available() {
    static const std::vector<const Kernels*> found = [] {
        std::vector<const Kernels*> here;
        for (const Kernels& isa : ALL)
            if (isa.available()) here.push_back(&isa);
        return here;
    }();
    return found;
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Kernels* isa : available()) names.push_back(isa->name);
    return names;
}

const Kernels& find(const std::string& name) {
    for (const Kernels* isa : available())
        if (isa->name == name) return *isa;
    throw std::invalid_argument("this machine has no kernels " + name);
}

}  // namespace
}  // namespace rbsf
