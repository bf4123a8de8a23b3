// A library that `as_avx2.py` loads into a process. It hides everything newer than AVX2, so that
// every other library chooses the kernels that it would choose on a CPU with only AVX2.
//
// Libraries use the instruction CPUID to find out what a CPU can do. Linux lets a process disable
// this instruction for itself. Each use then raises a signal, and the handler below answers instead
// of the CPU.

#include <asm/prctl.h>
#include <cpuid.h>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

namespace {

constexpr unsigned FEATURES = 7;  // the CPUID leaf with the bits below, in its part 0

constexpr unsigned bits(std::initializer_list<int> numbers) {
    unsigned all = 0;
    for (int number : numbers) all |= 1u << number;
    return all;
}

// The bits of AVX-512 and AMX (Intel's manual, volume 2A, CPUID).
constexpr unsigned HIDDEN_IN_EBX = bits({16, 17, 21, 26, 27, 28, 30, 31});
constexpr unsigned HIDDEN_IN_ECX = bits({1, 6, 11, 12, 14});
constexpr unsigned HIDDEN_IN_EDX = bits({2, 3, 8, 22, 23, 24, 25});

bool allow_cpuid(bool allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed ? 1ul : 0ul) == 0; }

void answer(int, siginfo_t*, void* context) {
    greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const auto* code = reinterpret_cast<const unsigned char*>(registers[REG_RIP]);
    if (code[0] != 0x0f || code[1] != 0xa2) {  // not CPUID, so a fault of the program itself
        std::signal(SIGSEGV, SIG_DFL);
        return;
    }
    const auto question = static_cast<unsigned>(registers[REG_RAX]), part = static_cast<unsigned>(registers[REG_RCX]);
    unsigned eax, ebx, ecx, edx;
    allow_cpuid(true);
    __cpuid_count(question, part, eax, ebx, ecx, edx);
    allow_cpuid(false);
    if (question == FEATURES && part == 0) {
        ebx &= ~HIDDEN_IN_EBX;
        ecx &= ~HIDDEN_IN_ECX;
        edx &= ~HIDDEN_IN_EDX;
    } else if (question == FEATURES) {  // AVX-VNNI and later features
        eax = ebx = ecx = edx = 0;
    }
    registers[REG_RAX] = eax;
    registers[REG_RBX] = ebx;
    registers[REG_RCX] = ecx;
    registers[REG_RDX] = edx;
    registers[REG_RIP] += 2;  // skips the instruction, which has 2 bytes
}

__attribute__((constructor)) void start() {
    struct sigaction action = {};
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, nullptr);
    if (!allow_cpuid(false)) {
        std::perror("as_avx2: this CPU, or this virtual machine, cannot hide instructions");
        std::exit(1);
    }
}

}  // namespace
