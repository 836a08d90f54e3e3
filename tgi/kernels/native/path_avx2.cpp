// Every operation compiled for AVX2, FMA and F16C; used where the processor has them.
#define TGI_AVX2 1
#define TGI_PATH avx2

#include "attention.h"
#include "matmul.h"
#include "rows.h"

namespace tgi {

const Kernels AVX2_KERNELS = {
    avx2::quantize_units<TokenGroup>, avx2::quantize_units<FineTokenGroup>, avx2::scale_units, avx2::matmul_units,
    avx2::embedding_units, avx2::rms_norm_units, avx2::layer_norm_units, avx2::rotary_units, avx2::write_kv_units,
    avx2::attention_units, avx2::merge_spans_units, avx2::activate_units, avx2::greedy_units, avx2::greedy_rows_units,
};

}  // namespace tgi
