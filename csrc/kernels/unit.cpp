// Compiled once per instruction set, with QKV_ISA (a namespace) and QKV_ISA_HEADER (its vectors) defined and the
// compiler told to use it. Everything but the table has internal linkage, and nothing here comes from std::, so no
// function built for one instruction set can be linked into another.
#include "kernels.h"

#include QKV_ISA_HEADER  // before the others: they are written in its vectors

#include "activations.h"
#include "attention.h"
#include "attention_weights.h"
#include "elementwise.h"
#include "linear.h"
#include "norm.h"
#include "peak.h"
#include "rotary.h"

#define QKV_TEXT_OF(x) #x
#define QKV_TEXT(x) QKV_TEXT_OF(x)
#define QKV_JOIN_OF(a, b) a##b
#define QKV_JOIN(a, b) QKV_JOIN_OF(a, b)

namespace qkv {

using namespace QKV_ISA;

extern const Kernels QKV_JOIN(kernels_, QKV_ISA) = {
    .isa = QKV_TEXT(QKV_ISA),
    .panel = kPanel,
    .lanes = kLanes,
    .bf16_activations = kDotBf16,
    .activation_offset = kActivationOffset,
    .linear_float32 = linear<Float32Format>,
    .linear_bfloat16 = linear<Bf16Format>,
    .linear_int8 = linear<Int8Format>,
    .linear_int4 = linear<Int4Format>,
    .quantise = quantise,
    .to_bfloat16 = to_bfloat16<F32>,
    .norm = norm,
    .attend = attend,
    .attend_blocks = attend_blocks,
    .merge_blocks = merge_blocks,
    .attention_weights = attention_weights,
    .rope = rope,
    .store_keys_values = store_keys_values,
    .softmax = softmax,
    .softmax_with_max = softmax_with_max,
    .exp_sum = exp_sum,
    .subtract = subtract,
    .block_maxima = block_maxima,
    .block_sums = block_sums,
    .count_from = count_from,
    .positions_from = positions_from,
    .map = apply,
    .add = add,
    .add_scaled = add_scaled,
    .peak_float32 = peak<Float32Format>,
    .peak_bfloat16 = peak<PeakOfBf16<kDotBf16>::Format>,
    .peak_int8 = peak<Int8Format>,
    .read = read,
};

}  // namespace qkv
