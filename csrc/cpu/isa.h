// Which instruction sets this build has, which of them this machine can run, and which one is chosen.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace qkv {

// Names of the usable kernel tables, best last. "portable" is always there.
std::vector<std::string> available_isas();

// The table that new weights and programs are built for. They keep it: a later choice does not touch them. The first
// choice is the environment variable QKV_ISA, or else the best; throws Error when that one can't be had.
const Kernels& chosen_kernels();

// Throws Error when `name` is unknown or this machine can't run it.
void choose_isa(const std::string& name);

}  // namespace qkv
