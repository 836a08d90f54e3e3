// The same as path_avx512.cpp for processors with AVX512_BF16 that multiply less than they could add (AMD's Zen 4): two
// products by one multiplication.
#define TGI_AVX2 1
#define TGI_VNNI 1
#define TGI_PAIRS 1
#define TGI_PATH avx512_bf16

#include "attention.h"
#include "matmul.h"
#include "rows.h"

namespace tgi {

const Kernels AVX512_BF16_KERNELS = {
    avx512_bf16::quantize_units<TokenGroup>, avx512_bf16::quantize_units<FineTokenGroup>, avx512_bf16::scale_units,
    avx512_bf16::matmul_units, avx512_bf16::embedding_units, avx512_bf16::rms_norm_units, avx512_bf16::layer_norm_units,
    avx512_bf16::rotary_units, avx512_bf16::write_kv_units, avx512_bf16::attention_units, avx512_bf16::merge_spans_units,
    avx512_bf16::activate_units, avx512_bf16::greedy_units, avx512_bf16::greedy_rows_units,
};

}  // namespace tgi
