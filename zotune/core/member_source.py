"""C++ source of what populations cost beside the model's own products: factors of directions, what a member adds to a
row of outputs, and exact sums of directions.

Knows text alone; `member_kernels` compiles it and compares its values with torch before first use.
"""

from __future__ import annotations

from typing import Final

from zotune.core import noise
from zotune.core.cpu_source import PRELUDE

FLAGS: Final = ("-fsigned-zeros", "-fno-math-errno", "-Wno-psabi", "-ffp-contract=fast")
"""Options of the compiler beyond torch's own. Fused multiply-adds change no bit of the factors and of exact sums."""

_MEMBERS: Final = r"""
typedef int16_t S __attribute__((vector_size(32)));

INLINE F load_(const int16_t *p) { S x; std::memcpy(&x, p, sizeof(x)); return __builtin_convertvector(x, F); }
INLINE float one(const float *p) { return *p; }
INLINE float one(const bf16 *p) { return as<float>((uint32_t)p->bits << 16); }
INLINE uint32_t nearest16(uint32_t bits) { return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16; }
INLINE void put(float *p, float x) { *p = x; }
INLINE void put(bf16 *p, float x) {
  p->bits = (uint16_t)(x == x ? nearest16(as<uint32_t>(x)) : (as<uint32_t>(x) >> 16 | 0x40u));
}
INLINE void put(float *p, F x) { std::memcpy(p, &x, sizeof(x)); }
INLINE void put(bf16 *p, F x) {
#if defined(__AVX512BF16__)
  const __m256bh h = _mm512_cvtneps_pbh((__m512)x);
  std::memcpy(p, &h, sizeof(h));
#else
  const U bits = as<U>(x);
  const U h = x == x ? (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16 : (bits >> 16 | 0x40u);
  save16(p, h);
#endif
}

// x · v in an order that depends on the length alone
template <class T> INLINE float dot(const T *x, const int16_t *v, int64_t n) {
  F a = {}, b = {}, c = {}, d = {};
  int64_t j = 0;
  for (; j + 64 <= n; j += 64) {
    a += load_(x + j) * load_(v + j);
    b += load_(x + j + 16) * load_(v + j + 16);
    c += load_(x + j + 32) * load_(v + j + 32);
    d += load_(x + j + 48) * load_(v + j + 48);
  }
  for (; j + 16 <= n; j += 16) a += load_(x + j) * load_(v + j);
  const F whole = (a + b) + (c + d);
  float sum = 0;
  for (; j < n; ++j) sum += one(x + j) * (float)v[j];
  for (int lane = 0; lane < LANES; ++lane) sum += whole[lane];
  return sum;
}
template <class T> INLINE void plus(T *out, float along, const int16_t *u, int64_t n) {
  int64_t j = 0;
  for (; j + 16 <= n; j += 16) put(out + j, load_(out + j) + along * load_(u + j));
  for (; j < n; ++j) put(out + j, one(out + j) + along * (float)u[j]);
}
template <class T>
INLINE void add_rows(T *out, const T *x, const int16_t *u, const int16_t *v, const float *factors, int64_t pairs,
                     int64_t tokens, int64_t width, int64_t length, int32_t threads) {
  const int64_t rows = 2 * pairs * tokens;
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * (width + length) >= (1 << 15))
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t member = row / tokens, pair = member % pairs;
    const float along = factors[member] * dot(x + row * width, v + pair * width, width);
    plus(out + row * length, along, u + pair * length, length);
  }
}
extern "C" void add_float(float *out, const float *x, const int16_t *u, const int16_t *v, const float *factors,
                          int64_t pairs, int64_t tokens, int64_t width, int64_t length, int32_t threads) {
  add_rows(out, x, u, v, factors, pairs, tokens, width, length, threads);
}
extern "C" void add_bf16(bf16 *out, const bf16 *x, const int16_t *u, const int16_t *v, const float *factors,
                         int64_t pairs, int64_t tokens, int64_t width, int64_t length, int32_t threads) {
  add_rows(out, x, u, v, factors, pairs, tokens, width, length, threads);
}

extern "C" void units(int16_t *out, const int32_t *k, int64_t count, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count >= (1 << 15))
  for (int64_t at = 0; at < count; at += LANES) {
    const S x = __builtin_convertvector(normal((uint32_t)at + LANE, k), S);
    std::memcpy(out + at, &x, (count - at < LANES ? count - at : LANES) * sizeof(int16_t));
  }
}

// Σ c_p u_p v_pᵀ: whole numbers, so that every partial sum is exact and the order does not matter
#if defined(__AVX512F__)
enum { HIGH = 8, WIDE = 16, PART = 8 };
#else
enum { HIGH = 4, WIDE = 8, PART = 4 };
#endif
typedef double P __attribute__((vector_size(PART * 8)));
typedef float N __attribute__((vector_size(PART * 4)));
INLINE void tile(const double *a, const double *b, int64_t terms, double unit, float *out, int64_t width) {
  P sums[HIGH][WIDE / PART] = {};
  for (int64_t p = 0; p < terms; ++p) {
    P right[WIDE / PART];
#pragma GCC unroll 2
    for (int j = 0; j < WIDE / PART; ++j) std::memcpy(&right[j], b + p * WIDE + j * PART, sizeof(P));
#pragma GCC unroll 8
    for (int i = 0; i < HIGH; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < WIDE / PART; ++j) sums[i][j] += a[p * HIGH + i] * right[j];
  }
#pragma GCC unroll 8
  for (int i = 0; i < HIGH; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < WIDE / PART; ++j) {
      const N rounded = __builtin_convertvector(sums[i][j] * unit, N);
      std::memcpy(out + i * width + j * PART, &rounded, sizeof(rounded));
    }
}
extern "C" void product(float *out, const int16_t *u, const int16_t *v, const double *c, double *packed, int64_t terms,
                        int64_t rows, int64_t first, int64_t last, int64_t width, double unit, int32_t threads) {
  const int64_t panels = (width + WIDE - 1) / WIDE, blocks = (last - first + HIGH - 1) / HIGH;
#pragma omp parallel for schedule(static) num_threads(threads) if (terms * width >= (1 << 15))
  for (int64_t panel = 0; panel < panels; ++panel)
    for (int64_t p = 0; p < terms; ++p)
      for (int64_t j = 0; j < WIDE; ++j) {
        const int64_t column = panel * WIDE + j;
        packed[(panel * terms + p) * WIDE + j] = column < width ? (double)v[p * width + column] : 0.0;
      }
#pragma omp parallel for schedule(static) num_threads(threads) if (terms * width * (last - first) >= (1 << 18))
  for (int64_t block = 0; block < blocks; ++block) {
    double a[512 * HIGH];
    const int64_t top = first + block * HIGH, high = last - top < HIGH ? last - top : HIGH;
    for (int64_t p = 0; p < terms; ++p)
      for (int64_t i = 0; i < HIGH; ++i) a[p * HIGH + i] = i < high ? c[p] * (double)u[p * rows + top + i] : 0.0;
    for (int64_t panel = 0; panel < panels; ++panel) {
      const double *b = packed + panel * terms * WIDE;
      const int64_t left = panel * WIDE, wide = width - left < WIDE ? width - left : WIDE;
      float *const place = out + (top - first) * width + left;
      if (high == HIGH && wide == WIDE) {
        tile(a, b, terms, unit, place, width);
      } else {
        float some[HIGH * WIDE];
        tile(a, b, terms, unit, some, WIDE);
        for (int64_t i = 0; i < high; ++i) std::memcpy(place + i * width, some + i * WIDE, wide * sizeof(float));
      }
    }
  }
}
"""


def member_source() -> str:
    """The source of a library that exports `units`, `add_float`, `add_bf16` and `product`."""
    whole = PRELUDE + _MEMBERS
    for j, m in enumerate(noise.MULTIPLIERS):
        whole = whole.replace(f"@M{j}@", f"{m & 0xFFFFFFFF}u")
    return whole


__all__ = ["FLAGS", "member_source"]
