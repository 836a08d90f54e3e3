// Every operation compiled for the oldest processor the compiler targets by default.
#define TGI_PATH portable

#include "attention.h"
#include "matmul.h"
#include "rows.h"

namespace tgi {

const Kernels PORTABLE_KERNELS = {
    portable::quantize_units<TokenGroup>, portable::quantize_units<FineTokenGroup>, portable::scale_units,
    portable::matmul_units, portable::embedding_units, portable::rms_norm_units, portable::layer_norm_units,
    portable::rotary_units, portable::write_kv_units, portable::attention_units, portable::merge_spans_units,
    portable::activate_units, portable::greedy_units, portable::greedy_rows_units,
};

}  // namespace tgi
