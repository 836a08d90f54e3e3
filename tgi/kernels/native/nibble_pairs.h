// Two products by one multiplication (S. Winograd, "A new algorithm for inner product", 1968). Column x meets weight a,
// column y weight b:
//
//   x * a + y * b = (x + b) * (y + a) - x * y - a * b
//
// x * y depends on the token alone and a * b on the weights alone, so many products share them; and a digit of 7 bits
// plus a nibble is a byte still. Integers are exact, in 32 bits as everywhere: no bit of a result changes.
//
// Adders have nothing else to do while multipliers are busy, but no more than one addition for each product: so half of
// a group's products are made this way. Steps j and j + 4 of a group are a pair: a byte holds the nibbles of both.
//
// The second step's nibbles lie plus OFFSET, so that x + b has no sign, as one factor of AVX-512's products must not.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace tgi {
namespace TGI_PATH {

constexpr int OFFSET = 120;

constexpr bool paired(int step, int digit) { return (step + digit) % 2 == 0; }

// What a token's integers add to products of pairs, negative: y * OFFSET everywhere, x * y where they are paired.
TGI_INLINE int32_t start_of_pairs(const int8_t (*integers)[GROUP]) {
    const __m128i even = _mm_setr_epi32(-1, 0, -1, 0), odd = _mm_setr_epi32(0, -1, 0, -1);
    __m128i total = _mm_setzero_si128();
#pragma GCC unroll 3
    for (int digit = 0; digit < 3; digit++) {
        __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(integers[digit]));
        __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(integers[digit] + GROUP / 2));
        first = _mm_and_si128(first, paired(0, digit) ? even : odd);
        first = _mm_add_epi8(first, _mm_set1_epi8(OFFSET));
        total = _mm_dpbusd_epi32(_mm_slli_epi32(total, DIGIT_BITS), first, second);
    }
    total = _mm_add_epi32(total, _mm_shuffle_epi32(total, 0x4e));
    total = _mm_add_epi32(total, _mm_shuffle_epi32(total, 0xb1));
    return _mm_cvtsi128_si32(_mm_sub_epi32(_mm_setzero_si128(), total));
}

// The second steps of `weights` get their OFFSET. Returns: a * b of all pairs, negative.
TGI_INLINE __m512i pair_weights(__m512i* weights) {
    __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};  // of even and odd steps
#pragma GCC unroll 4
    for (int step = 0; step < 4; step++) {
        weights[step + 4] = _mm512_add_epi8(weights[step + 4], _mm512_set1_epi8(OFFSET));
        sums[step % 2] = _mm512_dpbusd_epi32(sums[step % 2], weights[step + 4], weights[step]);
    }
    __m512i total = _mm512_add_epi32(_mm512_slli_epi32(sums[0], 2 * DIGIT_BITS), sums[0]);
    total = _mm512_add_epi32(total, _mm512_slli_epi32(sums[1], DIGIT_BITS));
    return _mm512_sub_epi32(_mm512_setzero_si512(), total);
}

TGI_INLINE __m512i join_digits(const __m512i* sums) {
    __m512i upper = _mm512_add_epi32(_mm512_slli_epi32(sums[0], DIGIT_BITS), sums[1]);
    return _mm512_add_epi32(_mm512_slli_epi32(upper, DIGIT_BITS), sums[2]);
}

// sum + products of four columns. Compilers load the token's columns by an instruction of their own, which the product
// can do itself: 3 % less.
TGI_INLINE __m512i add_step(__m512i sum, __m512i weights, const int8_t* integers) {
    const auto* four = reinterpret_cast<const int8_t(*)[4]>(integers);
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*four));
    return sum;
}

// Both steps of a pair at once.
TGI_INLINE __m512i add_pair(__m512i sum, __m512i first, __m512i second, const int8_t* integers) {
    const auto* x = reinterpret_cast<const int8_t(*)[4]>(integers);
    const auto* y = reinterpret_cast<const int8_t(*)[4]>(integers + GROUP / 2);
    __m512i left, right;
    asm("vpbroadcastd %5, %1\n\tvpbroadcastd %6, %2\n\tvpaddb %3, %1, %1\n\tvpaddb %4, %2, %2\n\tvpdpbusd %2, %1, %0"
        : "+v"(sum), "=&v"(left), "=&v"(right)
        : "v"(second), "v"(first), "m"(*x), "m"(*y));
    return sum;
}

// A group's integers of two tokens, so that neither's sums wait for themselves. `start`: of pair_weights.
TGI_INLINE void paired_integers(
    const __m512i* weights, __m512i start, bool minimums, const FineTokenGroup* one, const FineTokenGroup* other,
    __m512* integers) {
    const FineTokenGroup* const tokens[2] = {one, other};
    __m512i sums[2][3];
#pragma GCC unroll 2
    for (int m = 0; m < 2; m++) {
        sums[m][0] = sums[m][1] = _mm512_setzero_si512();
        sums[m][2] = _mm512_add_epi32(start, _mm512_set1_epi32(tokens[m]->start_pairs));
        if (!minimums) sums[m][2] = _mm512_add_epi32(sums[m][2], _mm512_set1_epi32(tokens[m]->start_nibbles));
    }
#pragma GCC unroll 4
    for (int step = 0; step < 4; step++) {
#pragma GCC unroll 2
        for (int m = 0; m < 2; m++) {
            const int8_t(*x)[GROUP] = tokens[m]->integers;
#pragma GCC unroll 3
            for (int digit = 0; digit < 3; digit++) {
                __m512i& sum = sums[m][digit];
                if (paired(step, digit)) sum = add_pair(sum, weights[step], weights[step + 4], x[digit] + 4 * step);
                else sum = add_step(sum, weights[step], x[digit] + 4 * step);
            }
#pragma GCC unroll 3
            for (int digit = 0; digit < 3; digit++) {
                __m512i& sum = sums[m][digit];
                if (!paired(step, digit)) sum = add_step(sum, weights[step + 4], x[digit] + 4 * (step + 4));
            }
        }
    }
#pragma GCC unroll 2
    for (int m = 0; m < 2; m++) integers[m] = _mm512_cvtepi32_ps(join_digits(sums[m]));
}

}  // namespace TGI_PATH
}  // namespace tgi
