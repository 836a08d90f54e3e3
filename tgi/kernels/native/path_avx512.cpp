// Every operation compiled for AVX-512 with its instructions for neural networks; used where the processor has them.
#define TGI_AVX2 1
#define TGI_VNNI 1
#define TGI_PATH avx512

#include "attention.h"
#include "matmul.h"
#include "rows.h"

namespace tgi {

const Kernels AVX512_KERNELS = {
    avx512::quantize_units<TokenGroup>, avx512::quantize_units<FineTokenGroup>, avx512::scale_units,
    avx512::matmul_units, avx512::embedding_units, avx512::rms_norm_units, avx512::layer_norm_units,
    avx512::rotary_units, avx512::write_kv_units, avx512::attention_units, avx512::merge_spans_units,
    avx512::activate_units, avx512::greedy_units, avx512::greedy_rows_units,
};

}  // namespace tgi
