// quantize.h's integers of 22 bits by 512-bit vectors: the same numbers.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace tgi {
namespace TGI_PATH {

TGI_INLINE __m256i low_bytes(__m512i first, __m512i second) {
    return _mm256_set_m128i(_mm512_cvtepi32_epi8(second), _mm512_cvtepi32_epi8(first));
}

TGI_INLINE int32_t round_group(const float* values, float inverse, int8_t (*integers)[GROUP]) {
    __m512 factor = _mm512_set1_ps(inverse);
    __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values), factor));
    __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values + 16), factor));
    int32_t total = _mm512_reduce_add_epi32(_mm512_add_epi32(first, second));
    // Half a digit more in the lower ones, and a digit's bits are those of the sum.
    constexpr int HALF = 1 << (DIGIT_BITS - 1);
    const __m512i halves = _mm512_set1_epi32(HALF << DIGIT_BITS | HALF);
    const __m256i mask = _mm256_set1_epi8(2 * HALF - 1), half = _mm256_set1_epi8(HALF);
    first = _mm512_add_epi32(first, halves);
    second = _mm512_add_epi32(second, halves);
#pragma GCC unroll 3
    for (int digit = 2; digit >= 0; digit--) {
        __m256i bytes = low_bytes(first, second);
        if (digit) bytes = _mm256_sub_epi8(_mm256_and_si256(bytes, mask), half);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(integers[digit]), bytes);
        first = _mm512_srai_epi32(first, DIGIT_BITS);
        second = _mm512_srai_epi32(second, DIGIT_BITS);
    }
    return total;
}

TGI_INLINE int32_t largest_bits(const float* values) {
    const __m512i mask = _mm512_set1_epi32(0x7fffffff);
    __m512i first = _mm512_and_si512(_mm512_loadu_si512(values), mask);
    return _mm512_reduce_max_epi32(_mm512_max_epi32(first, _mm512_and_si512(_mm512_loadu_si512(values + 16), mask)));
}

}  // namespace TGI_PATH
}  // namespace tgi
