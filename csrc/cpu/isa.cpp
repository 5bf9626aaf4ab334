#include "isa.h"

#include <atomic>
#include <cstdlib>

#include "error.h"

#ifdef QKV_X86
#include <cpuid.h>
#endif
#if defined(QKV_ARM) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace qkv {
namespace {

#ifdef QKV_X86
// The operating system must save the registers too: XCR0 bits 1-2 are XMM and YMM, 5-7 the AVX-512 state.
// (Intel SDM vol. 1, 13.3 and 14.3; the feature bits are in vol. 2, CPUID.)
struct Cpu {
  bool avx2 = false, avx512 = false, avx512_vnni = false, avx512_bf16 = false, intel = false;

  Cpu() {
    unsigned a, b, c, d;
    intel = __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return;
    const bool osxsave = c >> 27 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
    if (!osxsave) return;
    unsigned xcr0, high;
    __asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    const bool ymm = (xcr0 & 0x06) == 0x06, zmm = (xcr0 & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    avx2 = ymm && fma && f16c && (b >> 5 & 1);
    const bool f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1, vnni = c >> 11 & 1;
    avx512 = avx2 && zmm && f && dq && bw && vl;
    avx512_vnni = avx512 && vnni;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) avx512_bf16 = avx512_vnni && (a >> 5 & 1);
  }
};
#endif

#ifdef QKV_ARM
// Bits of Linux's arch/arm64/include/uapi/asm/hwcap.h, by number: headers of older systems lack some names. The kernel
// tells what both the core and it support. Elsewhere NEON itself is all that is taken for granted.
struct Cpu {
  bool dotprod = false, bf16 = false;

#ifdef __linux__
  Cpu() {
    dotprod = getauxval(AT_HWCAP) >> 20 & 1;
    bf16 = getauxval(AT_HWCAP2) >> 14 & 1;
  }
#endif
};
#endif

std::vector<const Kernels*> tables() {
  std::vector<const Kernels*> found = {&kernels_portable};
#ifdef QKV_X86
  const Cpu cpu;
  if (cpu.avx2) found.push_back(&kernels_avx2);
  if (cpu.avx512) found.push_back(&kernels_avx512);
  if (cpu.avx512_vnni) found.push_back(&kernels_avx512_vnni);
  // Intel's cores start a 512-bit vdpbf16ps every fourth time they start a float32 multiply-add (measured on Sapphire
  // Rapids: 1.3 against 5.4 per nanosecond), so widening is faster there. Zen 4 starts one a cycle: twice float32.
  if (cpu.avx512_bf16) found.insert(cpu.intel ? found.end() - 1 : found.end(), &kernels_avx512_bf16);
#endif
#ifdef QKV_ARM
  const Cpu cpu;
  found.push_back(&kernels_neon);
  if (cpu.dotprod) found.push_back(&kernels_neon_dotprod);
  if (cpu.dotprod && cpu.bf16) found.push_back(&kernels_neon_bf16);
#endif
  return found;
}

const Kernels* table_of(const std::string& name) {
  std::string names;
  for (const Kernels* table : tables()) {
    if (name == table->isa) return table;
    names.append(names.empty() ? "" : ", ").append(table->isa);
  }
  throw Error("instruction set '" + name + "' is not available on this machine; choose one of: " + names);
}

const Kernels* first_choice() {
  const char* wish = std::getenv("QKV_ISA");
  return wish && *wish ? table_of(wish) : tables().back();
}

std::atomic<const Kernels*>& choice() {
  static std::atomic<const Kernels*> chosen{first_choice()};
  return chosen;
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels* table : tables()) names.push_back(table->isa);
  return names;
}

const Kernels& chosen_kernels() { return *choice(); }

void choose_isa(const std::string& name) {
  const Kernels* table = table_of(name);
  choice() = table;
}

}  // namespace qkv
