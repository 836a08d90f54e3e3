// Tiles of attention with 512-bit vectors, for many queries: the keys of a tile are transposed in memory once for all of
// them, so that lanes are keys and nothing is added across lanes. The eight sums of attention.h's order are vectors.
#pragma once

#include "attention_tiles.h"

#if defined(TGI_VNNI)

namespace tgi {
namespace TGI_PATH {

constexpr int64_t WIDE_ROWS = 8;  // rows of a kv head from which on it pays
static_assert(SPAN % WIDE == 0 && TILE_KEYS % WIDE == 0, "scores are computed by sixteen");

// `soften`'s loops, from `begin` to `end`, multiples of eight.
TGI_INLINE float largest_wide(const float* scores, int64_t begin, int64_t end) {
    Float16 wide = all_wide(-__builtin_inff());
    int64_t i = begin;
    for (; i + WIDE <= end; i += WIDE) wide = larger(load_wide(scores + i), wide);
    Float8 highest = larger(low_half(wide), high_half(wide));
    return largest(i < end ? larger(load(scores + i), highest) : highest);
}

template <int TYPE>
TGI_INLINE Float8 weigh_wide(float* scores, int64_t begin, int64_t end, float most) {
    Float8 sums = {};
    uint16_t* pairs = reinterpret_cast<uint16_t*>(scores);  // in the place of scores that have been read
    int64_t i = begin;
    for (; i + WIDE <= end; i += WIDE) {
        Float16 weight = power_of<Float16, Bits16>(load_wide(scores + i) - all_wide(most));
        if (TYPE == PAIRED_BF16) {
            __m256i items = halves(weight);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs + i), items);
            weight = (Float16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(items), 16);
        } else {
            if (in_pairs(TYPE)) weight = rounded(weight);
            store(scores + i, weight);
        }
        sums += low_half(weight);
        sums += high_half(weight);
    }
    if (i < end) {
        Float8 weight = power(load(scores + i) - all(most));
        if (in_pairs(TYPE)) weight = rounded(weight);
        if (TYPE == PAIRED_BF16)
            _mm_storeu_si128(
                reinterpret_cast<__m128i*>(pairs + i), _mm256_cvtepi32_epi16(_mm256_srli_epi32((__m256i)weight, 16)));
        else
            store(scores + i, weight);
        sums += weight;
    }
    return sums;
}

// Eight columns of sixteen keys, column after column.
template <int TYPE>
TGI_INLINE void transpose_items(Vectors keys, int64_t offset, float* out) {
    static_assert(TYPE != CACHE_F32, "items of 16 bits");
    __m256i a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(keys[i] + offset));
        a[i] = _mm256_inserti128_si256(
            _mm256_castsi128_si256(low), _mm_loadu_si128(reinterpret_cast<const __m128i*>(keys[i + 8] + offset)), 1);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        b[i] = _mm256_unpacklo_epi16(a[2 * i], a[2 * i + 1]);  // columns 0 to 3 of two keys
        b[i + 4] = _mm256_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi32(b[2 * i], b[2 * i + 1]);  // two columns of four keys
        a[2 * i + 1] = _mm256_unpackhi_epi32(b[2 * i], b[2 * i + 1]);
    }
    // a: columns 01 and 23 of keys 0 to 3, of keys 4 to 7, then 45 and 67.
    const int first[4] = {0, 1, 4, 5};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm256_unpacklo_epi64(a[first[i]], a[first[i] + 2]);
        b[2 * i + 1] = _mm256_unpackhi_epi64(a[first[i]], a[first[i] + 2]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m512 column = TYPE == CACHE_F16 ? _mm512_cvtph_ps(b[i])
                                          : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(b[i]), 16));
        _mm512_storeu_ps(out + WIDE * i, column);
    }
}

// The same in float32, of eight keys.
TGI_INLINE void transpose_floats(Vectors keys, int64_t offset, float* out) {
    __m256 a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(keys[i] + offset));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {  // columns 0 and 4, 1 and 5, 2 and 6, 3 and 7 of four keys
        a[4 * i] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
        a[4 * i + 1] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0xee);
        a[4 * i + 2] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
        a[4 * i + 3] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(out + WIDE * i, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(out + WIDE * (i + 4), _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}

// The tile's keys in float32: sixteen after sixteen, each column after column, zeros up to whole vectors. Beyond the
// last key come others' items, whose scores nobody reads.
template <int TYPE>
static void transpose_keys(const Tile& tile, int64_t bytes, AttentionBuffers& buffers) {
    for (int64_t i = 0; i < tile.end - tile.start; i += WIDE) {
        float* out = buffers.tile + i * tile.width;
        for (int64_t n = i; n < i + WIDE; n++) ask_for(tile.vectors[n + AHEAD] + tile.offset, bytes);
        Vectors keys = tile.vectors + i;
        alignas(32) uint8_t rest[WIDE][8 * sizeof(float)];
        const uint8_t* rests[WIDE];
        for (int64_t k = 0; k < tile.width; k += 8) {
            int64_t offset = tile.offset + k * item_bytes(TYPE), left = bytes - k * item_bytes(TYPE);
            if (left < 8 * item_bytes(TYPE)) {
                std::memset(rest, 0, sizeof rest);
                for (int64_t n = 0; n < WIDE; n++) {
                    if (left > 0) std::memcpy(rest[n], tile.vectors[i + n] + offset, static_cast<size_t>(left));
                    rests[n] = rest[n];
                }
                keys = rests, offset = 0;
            }
            if constexpr (TYPE == CACHE_F32) {
                transpose_floats(keys, offset, out + k * WIDE);
                transpose_floats(keys + 8, offset, out + k * WIDE + 8);
            } else {
                transpose_items<TYPE>(keys, offset, out + k * WIDE);
            }
        }
    }
}

// Scores of M queries, `stride` floats apart, against sixteen keys; columns, or pairs of them.
template <int TYPE, int M>
TGI_INLINE void score_sixteen(const float* query, int64_t stride, const float* keys, int64_t columns, float* scores) {
    Float16 sums[M * 8] = {};
    // Where columns meet in pairs, the query has the second of eight pairs, then the first.
    constexpr int STEP = TYPE == CONVERTED_BF16 ? 16 : 8;
    for (int64_t k = 0; k < columns; k += STEP) {
#pragma GCC unroll 16
        for (int i = 0; i < STEP; i++) {
            Float16 column = load_wide(keys + (k + (STEP == 8 ? i : 2 * (i % 8) + (i < 8))) * WIDE);
            asm("" : "+v"(column));  // from memory come the queries' columns: one load a product
#pragma GCC unroll 3
            for (int m = 0; m < M; m++) {
                Float16& total = sums[m * 8 + i % 8];
                const float* item = query + m * stride + k + i;
                total = TYPE == PAIRED_BF16 ? pairs_added(column, item, total) : fused(all_wide(*item), column, total);
            }
        }
    }
#pragma GCC unroll 3
    for (int m = 0; m < M; m++) {
        const Float16* s = sums + m * 8;
        store(scores + m * SPAN, ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])));
    }
}

template <int TYPE, int M>
TGI_APART void score_wide(const Tile& tile, int64_t row, AttentionBuffers& buffers) {
    int64_t columns = TYPE == PAIRED_BF16 ? tile.width / 2 : tile.width;
    Seen seen = seen_by(buffers, row, M, tile.start, tile.end);
    for (int64_t i = seen.from / WIDE * WIDE; i < seen.to; i += WIDE)
        score_sixteen<TYPE, M>(
            buffers.query + row * tile.width, tile.width, buffers.tile + (i - tile.start) * columns, columns,
            buffers.scores + row * SPAN + i);
}

// sums += weights . values of `count` positions, or pairs of them, for M queries and V wide vectors. Of a pair, `half`
// are the bits that count.
template <int TYPE, int M, int V>
TGI_INLINE void add_wide(
    const float* values, int64_t width, int64_t count, const float* weights, float* sums, uint32_t half) {
    Float16 result[M * V];
#pragma GCC unroll 6
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) result[m * V + v] = load_wide(sums + m * width + WIDE * v);
    constexpr int64_t STEP = TYPE == CONVERTED_BF16 ? 2 : 1;
    for (int64_t pair = 0; pair < count; pair += STEP) {
#pragma GCC unroll 2
        for (int64_t i = pair + STEP - 1; i >= pair; i--) {
            if (STEP == 2 && i == count) continue;  // half a pair
            Float16 value[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) {
                value[v] = load_wide(values + i * width + WIDE * v);
                if (TYPE == PAIRED_BF16 && M == 1) value[v] = (Float16)((Bits16)value[v] & half);
            }
#pragma GCC unroll 6
            for (int m = 0; m < M; m++) {
                Float16 weight = all_wide(weights[m * SPAN + i]);
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) {
                    Float16& total = result[m * V + v];
                    total = TYPE == PAIRED_BF16 ? pairs_added(value[v], weight, total) : fused(weight, value[v], total);
                }
            }
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) store(sums + m * width + WIDE * v, result[m * V + v]);
}

// The same for all columns, from a position of the tile, or a pair of them, on.
template <int TYPE, int M>
TGI_APART void add_wide_values(
    const Tile& tile, int64_t first, int64_t count, int64_t row, uint32_t half, AttentionBuffers& buffers) {
    constexpr int STEP = TYPE == PAIRED_BF16 ? 2 : 1;
    if (count <= 0) return;
    const float *weights = buffers.scores + row * SPAN + tile.start / STEP + first;
    const float* values = buffers.tile + first * tile.width;
    float* sums = buffers.sums + row * tile.width;
    int64_t column = 0, width = tile.width;
    for (; column + 4 * WIDE <= width; column += 4 * WIDE)
        add_wide<TYPE, M, 4>(values + column, width, count, weights, sums + column, half);
    for (; column + WIDE <= width; column += WIDE)
        add_wide<TYPE, M, 1>(values + column, width, count, weights, sums + column, half);
    int64_t from = tile.start + first;
    for (int64_t i = row; column < width && i < row + M; i++)
        add_values<CACHE_F32, 1, 1, 0>(
            tile, column, from, from + count, buffers.scores + i * SPAN, buffers.sums + i * width);
}

// Positions [from, to) for M queries.
template <int TYPE, int M>
TGI_INLINE void add_range(const Tile& tile, int64_t from, int64_t to, int64_t row, AttentionBuffers& buffers) {
    from -= tile.start, to -= tile.start;
    if (TYPE == CONVERTED_BF16 && from < to && from % 2) add_wide_values<TYPE, M>(tile, from++, 1, row, 0, buffers);
    if (TYPE != PAIRED_BF16) return add_wide_values<TYPE, M>(tile, from, to - from, row, 0, buffers);
    for (int64_t i = row; from < to && from % 2 && i < row + M; i++)
        add_wide_values<TYPE, 1>(tile, from / 2, 1, i, 0xffff0000, buffers);
    int64_t first = (from + 1) / 2, last = to / 2;
    add_wide_values<TYPE, M>(tile, first, last - first, row, 0xffffffff, buffers);
    for (int64_t i = row; last >= first && to % 2 && i < row + M; i++)
        add_wide_values<TYPE, 1>(tile, last, 1, i, 0x0000ffff, buffers);
}

// As `add_rows`: what all rows see together, what only some see row by row.
template <int TYPE, int M>
static void add_wide_rows(const Tile& tile, int64_t row, AttentionBuffers& buffers) {
    Seen seen = seen_by(buffers, row, M, tile.start, tile.end);
    int64_t from, to;
    bool some = seen.shared<TYPE>(from, to);
    if (!some) from = to = tile.start;
    for (int64_t i = row; M > 1 && (seen.from < from || !some) && i < row + M; i++) {
        Seen own = seen_by(buffers, i, 1, tile.start, tile.end);
        add_range<TYPE, 1>(tile, own.from, some ? from : own.to, i, buffers);
    }
    add_range<TYPE, M>(tile, from, to, row, buffers);
    for (int64_t i = row; M > 1 && some && to < seen.to && i < row + M; i++)
        add_range<TYPE, 1>(tile, to, seen_by(buffers, i, 1, tile.start, tile.end).to, i, buffers);
}

// All rows of a kv head against a tile, which `buffers.tile` has in the form that is wanted: keys transposed, values as
// they lie, or pairs of either.
template <int TYPE, bool SCORES>
static void attend_wide(const Tile& tile, int64_t row, int64_t rows, AttentionBuffers& buffers) {
    int64_t end = row + rows;
    if (SCORES) {
        for (; end - row >= 3; row += 3) score_wide<TYPE, 3>(tile, row, buffers);
        if (end - row == 2) score_wide<TYPE, 2>(tile, row, buffers);
        if (end - row == 1) score_wide<TYPE, 1>(tile, row, buffers);
    } else {
        for (; end - row >= 6; row += 6) add_wide_rows<TYPE, 6>(tile, row, buffers);
        for (; end - row >= 3; row += 3) add_wide_rows<TYPE, 3>(tile, row, buffers);
        for (; row < end; row++) add_wide_rows<TYPE, 1>(tile, row, buffers);
    }
}

}  // namespace TGI_PATH
}  // namespace tgi

#endif
