#include "bindings.h"
#include "cpu/isa.h"

namespace qkv {

void register_system(py::module_& m) {
  m.attr("page_tokens") = kPageTokens;
  m.def("available_isas", &available_isas, "Instruction sets this machine can run, best last.");
  m.def("choose_isa", &choose_isa, py::arg("name"), "Use this instruction set for what is built from now on.");
  m.def("chosen_isa", [] {
    const Kernels& k = chosen_kernels();
    py::dict d;
    d["isa"] = k.isa;
    d["panel"] = k.panel;
    d["lanes"] = k.lanes;
    d["bf16_dot"] = k.bf16_activations;
    return d;
  });
}

}  // namespace qkv
