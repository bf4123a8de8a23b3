// A library that `as_avx2.py` loads into a process: it hides all that is newer than AVX2 from it, so that every
// library there chooses the kernels that it would choose on a CPU with AVX2 alone.
//
// Linux lets a process forbid itself the instruction CPUID, by which libraries ask what a CPU can do. Each use then
// raises a signal, and the handler below answers in the CPU's place.

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

constexpr unsigned FEATURES = 7;  // the question whose first answer has the bits below

constexpr unsigned bits(std::initializer_list<int> numbers) {
    unsigned all = 0;
    for (int number : numbers) all |= 1u << number;
    return all;
}

// Those of AVX-512 and AMX (Intel's manual, volume 2A, CPUID).
constexpr unsigned HIDDEN_IN_EBX = bits({16, 17, 21, 26, 27, 28, 30, 31});
constexpr unsigned HIDDEN_IN_ECX = bits({1, 6, 11, 12, 14});
constexpr unsigned HIDDEN_IN_EDX = bits({2, 3, 8, 22, 23, 24, 25});

bool allow_cpuid(bool allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed ? 1ul : 0ul) == 0; }

void answer(int, siginfo_t*, void* context) {
    greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const auto* code = reinterpret_cast<const unsigned char*>(registers[REG_RIP]);
    if (code[0] != 0x0f || code[1] != 0xa2) {  // not CPUID: a fault of the program's own
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
    } else if (question == FEATURES) {  // AVX-VNNI and what came after it
        eax = ebx = ecx = edx = 0;
    }
    registers[REG_RAX] = eax;
    registers[REG_RBX] = ebx;
    registers[REG_RCX] = ecx;
    registers[REG_RDX] = edx;
    registers[REG_RIP] += 2;  // bytes of the instruction
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
