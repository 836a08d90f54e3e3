// Tiles of attention: a few queries against the keys, then the values, of a few positions. attention.h says in which
// order everything is added up.
#pragma once

#include "dequantize.h"
#include "wide.h"

namespace tgi {
namespace TGI_PATH {

constexpr int64_t TILE_KEYS = 64;  // whole vectors
constexpr int64_t AHEAD = TILE_KEYS;  // positions between asking for a vector and reading it: the next tile's turn
constexpr int64_t FEW_KEYS = 16;  // of float32, twice as many of half the size, a tile of few queries
constexpr int64_t CONVERTED_ROWS = 8;  // rows of a kv head from which on converting a tile in memory pays
constexpr int64_t TOGETHER = 16;  // scores are computed by eight or by sixteen
static_assert(SPAN % TOGETHER == 0 && TILE_KEYS % TOGETHER == 0, "a span begins with a tile");

// Accumulators at once: the registers there are, less those for operands.
#if defined(TGI_VNNI)
constexpr int KEYS_AT_ONCE = 8, VECTORS_AT_ONCE = 8;
#else
constexpr int KEYS_AT_ONCE = 4, VECTORS_AT_ONCE = 4;
#endif

// The innermost loops take all registers: what surrounds them must not hold any.
#define TGI_APART static __attribute__((noinline))

using Vectors = const uint8_t* const*;

struct AttentionBuffers {
    alignas(64) float query[GROUP_ROWS * MAX_HEAD_DIM];
    alignas(64) float sums[GROUP_ROWS * MAX_HEAD_DIM];
    alignas(64) float tile[TILE_KEYS * MAX_HEAD_DIM];
    alignas(64) float scores[GROUP_ROWS * SPAN];
    float most[GROUP_ROWS];
    float total[GROUP_ROWS];
    // Of each row, what it sees of the span.
    int64_t from[GROUP_ROWS];
    int64_t to[GROUP_ROWS];
    // Of each position of the span, the vector of the first kv head; then what will be read next.
    const uint8_t* keys[SPAN + AHEAD];
    const uint8_t* values[SPAN + AHEAD];
    const uint8_t* tile_rows[TILE_KEYS + AHEAD];
};

// Beside the types of caches, those of tiles: CACHE_BF16 whose values are in float32 already, and CACHE_BF16 where the
// processor multiplies pairs of them (attention_pairs.h).
enum TileType : int { CONVERTED_BF16 = CACHE_BF16 + 1, PAIRED_BF16 };

constexpr int64_t item_bytes(int type) { return type == CACHE_F32 || type == CONVERTED_BF16 ? 4 : 2; }
constexpr bool in_pairs(int type) { return type >= CACHE_BF16; }

// Where queries are few, memory sets the pace, and is fastest when all heads of a position are read nearly at once.
constexpr int64_t few_keys(int type) { return item_bytes(type) == 4 ? FEW_KEYS : 2 * FEW_KEYS; }

template <int TYPE>
TGI_INLINE Float8 load_as(const uint8_t* source) {
    Float8 value;
    if (item_bytes(TYPE) == 4) {
        std::memcpy(&value, source, sizeof value);
        return value;
    }
#if defined(TGI_AVX2)
    __m128i items = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
    if (TYPE == CACHE_F16) return _mm256_cvtph_ps(items);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(items), 16));
#else
    for (int i = 0; i < 8; i++) value[i] = TYPE == CACHE_F16 ? scale_at(source + 2 * i) : brain_at(source + 2 * i);
    return value;
#endif
}

// To the nearest bfloat16, ties to even.
template <class Floats, class Bits>
TGI_INLINE Floats rounded_to(Floats x) {
    Bits bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

TGI_INLINE Float8 rounded(Float8 x) { return rounded_to<Float8, Bits8>(x); }
#if defined(TGI_VNNI)
TGI_INLINE Float16 rounded(Float16 x) { return rounded_to<Float16, Bits16>(x); }
#endif

// Eight columns of a key, those that meet columns k to k + 7 of the query: in bfloat16 the second of eight pairs, then
// the first.
template <int TYPE>
TGI_INLINE Float8 load_key(const uint8_t* key, int64_t k) {
    if (TYPE != CACHE_BF16) return load_as<TYPE>(key + k * item_bytes(TYPE));
    Bits8 pairs;
    std::memcpy(&pairs, key + k / 16 * 32, sizeof pairs);
    pairs = k % 16 ? pairs << 16 : pairs & 0xffff0000;
    Float8 value;
    std::memcpy(&value, &pairs, sizeof value);
    return value;
}

// Sixteen columns -> the second of eight pairs, then the first.
TGI_INLINE void part_pairs(float* columns) {
    float parted[16];
    for (int i = 0; i < 8; i++) parted[i] = columns[2 * i + 1], parted[8 + i] = columns[2 * i];
    std::memcpy(columns, parted, sizeof parted);
}

// Lanes of four vectors added up but for the last step: 2 j and 2 j + 1 of the result belong to vector 0, 2, 1, 3 for
// j = 0 to 3.
TGI_INLINE Float8 fold_four(const Float8* v) {
#if defined(TGI_AVX2)
    __m256 a = _mm256_add_ps(_mm256_blend_ps(v[0], v[1], 0xf0), _mm256_permute2f128_ps(v[0], v[1], 0x21));
    __m256 b = _mm256_add_ps(_mm256_blend_ps(v[2], v[3], 0xf0), _mm256_permute2f128_ps(v[2], v[3], 0x21));
    __m256d c = _mm256_castps_pd(a), d = _mm256_castps_pd(b);
    return _mm256_add_ps(
        _mm256_castpd_ps(_mm256_blend_pd(c, d, 0xa)), _mm256_castpd_ps(_mm256_shuffle_pd(c, d, 0x5)));
#else
    const int place[4] = {0, 2, 1, 3};
    Float8 result;
    for (int j = 0; j < 4; j++) {
        Float8 w = v[place[j]];
        result[2 * j] = (w[0] + w[4]) + (w[2] + w[6]);
        result[2 * j + 1] = (w[1] + w[5]) + (w[3] + w[7]);
    }
    return result;
#endif
}

// The last step, for those of vectors 0, 4, 1, 5 and 2, 6, 3, 7: the sums of 0 to 7.
TGI_INLINE Float8 fold_last(Float8 a, Float8 b) {
#if defined(TGI_AVX2)
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
#else
    return Float8{a[0] + a[1], a[2] + a[3], b[0] + b[1], b[2] + b[3],
                  a[4] + a[5], a[6] + a[7], b[4] + b[5], b[6] + b[7]};
#endif
}

// Ask for a vector before its turn: blocks lie anywhere. ASK, here and in attention_pairs.h: how many positions before; 0
// does not ask.
TGI_INLINE void ask_for(const uint8_t* vector, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(vector + i, 0, 2);
}

// Scores of M queries against eight keys, N of them at once; `scores` are those of the first key.
template <int TYPE, int M, int N, int64_t ASK>
TGI_INLINE void score_eight(const float* query, int64_t width, Vectors keys, int64_t offset, float* scores) {
    constexpr int64_t STEP = TYPE == CACHE_BF16 ? 16 : 8;
    const int order[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    Float8 folded[2 * M];
#pragma GCC unroll 2
    for (int half = 0; half < 8; half += N) {
        const uint8_t* key[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) key[n] = keys[order[half + n]] + offset;
        Float8 sums[M * N] = {};
        for (int64_t block = 0; block < width; block += STEP) {
            if (ASK && block * item_bytes(TYPE) % 64 == 0)
                for (int n = half; n < half + N; n++)
                    __builtin_prefetch(keys[ASK + n] + offset + block * item_bytes(TYPE), 0, 2);
#pragma GCC unroll 2
            for (int64_t k = block; k < block + STEP; k += 8) {
                Float8 rows[M];
#pragma GCC unroll 3
                for (int m = 0; m < M; m++) rows[m] = load(query + m * width + k);
#pragma GCC unroll 8
                for (int n = 0; n < N; n++) {
                    Float8 column = load_key<TYPE>(key[n] + block * item_bytes(TYPE), k - block);
#pragma GCC unroll 3
                    for (int m = 0; m < M; m++) sums[m * N + n] = fused(rows[m], column, sums[m * N + n]);
                }
            }
        }
#pragma GCC unroll 3
        for (int m = 0; m < M; m++) {
#pragma GCC unroll 2
            for (int n = 0; n < N; n += 4) folded[2 * m + (half + n) / 4] = fold_four(sums + m * N + n);
        }
    }
#pragma GCC unroll 3
    for (int m = 0; m < M; m++) store(scores + m * SPAN, fold_last(folded[2 * m], folded[2 * m + 1]));
}

// What of a tile the rows [row, row + count) see: together, and all of them.
struct Seen {
    int64_t from, to, all_from, all_to;

    // What all of them see, less half pairs where some see the other half.
    template <int TYPE>
    bool shared(int64_t& begin, int64_t& end) const {
        bool pairs = in_pairs(TYPE);
        begin = pairs && from < all_from ? (all_from + 1) / 2 * 2 : all_from;
        end = pairs && all_to < to ? all_to / 2 * 2 : all_to;
        return begin < end;
    }
};

TGI_INLINE Seen seen_by(const AttentionBuffers& buffers, int64_t row, int64_t count, int64_t start, int64_t end) {
    Seen seen{end, start, start, end};
    for (int64_t i = row; i < row + count; i++) {
        int64_t from = buffers.from[i] > start ? buffers.from[i] : start, to = buffers.to[i] < end ? buffers.to[i] : end;
        seen.from = from < seen.from ? from : seen.from;
        seen.to = to > seen.to ? to : seen.to;
        seen.all_from = from > seen.all_from ? from : seen.all_from;
        seen.all_to = to < seen.all_to ? to : seen.all_to;
    }
    return seen;
}

// Part of a tile: vectors of positions [start, end), `vectors` that of start, for one kv head.
struct Tile {
    Vectors vectors;
    int64_t offset;  // of the kv head
    int64_t start;
    int64_t end;
    int64_t width;
};

template <int TYPE, int M, int64_t ASK>
TGI_APART void score_rows(const Tile& tile, int64_t row, AttentionBuffers& buffers) {
    constexpr int N = M == 1 ? 8 : KEYS_AT_ONCE;
    Seen seen = seen_by(buffers, row, M, tile.start, tile.end);
    for (int64_t i = seen.from / 8 * 8; i < seen.to; i += 8)
        score_eight<TYPE, M, N, ASK>(
            buffers.query + row * tile.width, tile.width, tile.vectors + (i - tile.start), tile.offset,
            buffers.scores + row * SPAN + i);
}

// The same for one position: `vector` is its columns, `weights` those of the first query.
template <int TYPE, int M, int V>
TGI_INLINE void add_value(const uint8_t* vector, const float* weights, Float8* result) {
    Float8 weight[M];
#pragma GCC unroll 3
    for (int m = 0; m < M; m++) weight[m] = all(weights[m * SPAN]);
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
        Float8 value = load_as<TYPE>(vector + 8 * v * item_bytes(TYPE));
#pragma GCC unroll 3
        for (int m = 0; m < M; m++) result[m * V + v] = fused(weight[m], value, result[m * V + v]);
    }
}

// sums += weights . values of positions [from, to), for M queries and V vectors of the head from column `column` on.
template <int TYPE, int M, int V, int64_t ASK>
TGI_INLINE void add_values(
    const Tile& tile, int64_t column, int64_t from, int64_t to, const float* weights, float* sums) {
    constexpr int64_t BYTES = 8 * V * item_bytes(TYPE), STEP = in_pairs(TYPE) ? 2 : 1;
    Float8 result[M * V];
    int64_t offset = tile.offset + column * item_bytes(TYPE);
    Vectors vectors = tile.vectors - tile.start;
#pragma GCC unroll 3
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) result[m * V + v] = load(sums + m * tile.width + column + 8 * v);
    int64_t i = from;
    if (STEP == 2 && i % 2) {
        add_value<TYPE, M, V>(vectors[i] + offset, weights + i, result);
        i++;
    }
    for (; i + STEP <= to; i += STEP) {
#pragma GCC unroll 2
        for (int64_t n = i + STEP - 1; n >= i; n--) {
            if (ASK) ask_for(vectors[n + ASK] + offset, BYTES);
            add_value<TYPE, M, V>(vectors[n] + offset, weights + n, result);
        }
    }
    if (STEP == 2 && i < to) add_value<TYPE, M, V>(vectors[i] + offset, weights + i, result);
#pragma GCC unroll 3
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) store(sums + m * tile.width + column + 8 * v, result[m * V + v]);
}

template <int TYPE, int M, int64_t ASK>
TGI_APART void add_all_values(const Tile& tile, int64_t from, int64_t to, int64_t row, AttentionBuffers& buffers) {
    if (from >= to) return;
    constexpr int V = M == 1 ? 8 : VECTORS_AT_ONCE;
    const float* weights = buffers.scores + row * SPAN;
    float* sums = buffers.sums + row * tile.width;
    int64_t column = 0;
    for (; column + 8 * V <= tile.width; column += 8 * V)
        add_values<TYPE, M, V, ASK>(tile, column, from, to, weights, sums);
    for (; column < tile.width; column += 8) add_values<TYPE, M, 1, ASK>(tile, column, from, to, weights, sums);
}

template <int TYPE, int M, int64_t ASK>
TGI_INLINE void add_rows(const Tile& tile, int64_t row, AttentionBuffers& buffers) {
    Seen seen = seen_by(buffers, row, M, tile.start, tile.end);
    int64_t from, to;
    bool some = seen.shared<TYPE>(from, to);
    if (!some) from = to = tile.start;
    if (M > 1 && (seen.from < from || !some)) {
        for (int64_t i = row; i < row + M; i++) {
            Seen own = seen_by(buffers, i, 1, tile.start, tile.end);
            add_all_values<TYPE, 1, false>(tile, own.from, some ? from : own.to, i, buffers);
        }
    }
    add_all_values<TYPE, M, ASK>(tile, from, to, row, buffers);
    if (M > 1 && some && to < seen.to) {
        for (int64_t i = row; i < row + M; i++)
            add_all_values<TYPE, 1, false>(tile, to, seen_by(buffers, i, 1, tile.start, tile.end).to, i, buffers);
    }
}

// All rows of a kv head against a tile.
template <int TYPE, bool SCORES, int64_t ASK>
static void attend_tile(const Tile& tile, int64_t row, int64_t rows, AttentionBuffers& buffers) {
    int64_t end = row + rows;
    if (SCORES) {
        for (; end - row >= 3 && end - row != 4; row += 3) score_rows<TYPE, 3, ASK>(tile, row, buffers);
        for (; end - row >= 2; row += 2) score_rows<TYPE, 2, ASK>(tile, row, buffers);
        if (row < end) score_rows<TYPE, 1, ASK>(tile, row, buffers);
    } else {
        for (; end - row >= 3 && end - row != 4; row += 3) add_rows<TYPE, 3, ASK>(tile, row, buffers);
        for (; end - row >= 2; row += 2) add_rows<TYPE, 2, ASK>(tile, row, buffers);
        if (row < end) add_rows<TYPE, 1, ASK>(tile, row, buffers);
    }
}

// The tile's vectors in float32, zeros up to whole vectors; of keys in bfloat16, columns in the order of `load_key`.
template <int TYPE, bool SCORES>
static Tile converted(const Tile& tile, int64_t head_dim, AttentionBuffers& buffers) {
    constexpr int64_t STEP = TYPE == CACHE_BF16 && SCORES ? 16 : 8;
    for (int64_t i = 0; i < tile.end - tile.start; i++) {
        const uint8_t* vector = tile.vectors[i] + tile.offset;
        ask_for(tile.vectors[i + AHEAD] + tile.offset, head_dim * item_bytes(TYPE));
        float* out = buffers.tile + i * tile.width;
        for (int64_t k = 0; k < tile.width; k += STEP) {
            const uint8_t* items = vector + k * item_bytes(TYPE);
            uint8_t rest[STEP * sizeof(float)];
            if (k + STEP > head_dim) {
                std::memset(rest, 0, sizeof rest);
                if (k < head_dim) std::memcpy(rest, items, static_cast<size_t>((head_dim - k) * item_bytes(TYPE)));
                items = rest;
            }
            for (int64_t n = 0; n < STEP; n += 8)
                store(out + k + n, STEP == 16 ? load_key<TYPE>(items, n) : load_as<TYPE>(items));
        }
    }
    return {buffers.tile_rows, 0, tile.start, tile.end, tile.width};
}

}  // namespace TGI_PATH
}  // namespace tgi
