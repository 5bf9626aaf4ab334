// One register function per subject; module.cpp only calls them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "cpu/weight.h"

namespace qkv {

namespace py = pybind11;

// C-contiguous float32, converted when it is not. Who cares about silent copies checks in Python.
using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

// Throws Error unless x fits the weight, and residual the result.
void check_linear(const FloatArray& x, const Weight& weight, const std::optional<FloatArray>& residual);

// The memory of float32 x [rows, vocabulary] that `function` writes to; throws Error when x is something else.
float* writable_rows(py::array& x, const char* function);

void register_system(py::module_& m);     // instruction sets
void register_weight(py::module_& m);     // packed weights
void register_batches(py::module_& m);    // what runs read, KV cache
void register_program(py::module_& m);    // programs, runs
void register_attention(py::module_& m);  // attention's shape, and attention on arrays
void register_sampling(py::module_& m);   // from logits to tokens
void register_beams(py::module_& m);      // beam search
void register_rules(py::module_& m);      // what is done to logits before
void register_logprobs(py::module_& m);   // log probabilities
void register_ops(py::module_& m);        // kernels on arrays
void register_ceilings(py::module_& m);   // what the machine gives, timed

}  // namespace qkv
