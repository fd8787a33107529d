// The compiled CPU kernels: a plain C interface over cpu_body.h, called through ctypes by cpu.py.
//
// The body is compiled once per instruction set and chosen when the library is loaded, so one build runs on every
// machine of its architecture. OpenMP's symbols are left undefined on purpose: they resolve to the runtime that
// PyTorch has loaded, so both share one pool of threads.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <omp.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

template <typename T> static T *align(T *pointer) {
  return reinterpret_cast<T *>((reinterpret_cast<uintptr_t>(pointer) + 63) & ~uintptr_t(63));
}

// How matching pursuit keeps its correlations up to date: the cheapest way (`WayToUpdate`) or, for tests and
// benchmarks, always the same one.
enum Way { BEST, CHANGES, ROWS, ANEW, SCREENED };
static Way way_to_update = BEST;

namespace baseline {
#define LEVEL 0
#include "cpu_body.h"
#undef LEVEL
} // namespace baseline

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DISPATCH 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
namespace avx2 {
#define LEVEL 1
#include "cpu_body.h"
#undef LEVEL
} // namespace avx2
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,bmi,bmi2,prefer-vector-width=512")
namespace avx512 {
#define LEVEL 2
#include "cpu_body.h"
#undef LEVEL
} // namespace avx512
#pragma GCC pop_options
#endif

static int highest_level() {
#ifdef DISPATCH
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return 1;
#endif
  return 0;
}

static int level = highest_level();

#ifdef DISPATCH
#define CALL(function, ...)                                                                                            \
  (level == 2   ? avx512::function(__VA_ARGS__)                                                                        \
   : level == 1 ? avx2::function(__VA_ARGS__)                                                                          \
                : baseline::function(__VA_ARGS__))
#else
#define CALL(function, ...) baseline::function(__VA_ARGS__)
#endif

#define EXPORT(T, suffix)                                                                                              \
  int64_t encode_topk_##suffix(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, const T *x,         \
                               const T *values, const int64_t *support, const T *bias, T *codes, int64_t *indices,     \
                               int64_t threads) {                                                                      \
    return CALL(encode_topk<T>, tokens, d_in, n, degree, k, x, values, support, bias, codes, indices, threads);        \
  }                                                                                                                    \
  void topk_##suffix(int64_t rows, int64_t n, int64_t k, const T *z, T *codes, int64_t *indices, int64_t threads) {    \
    CALL(topk<T>, rows, n, k, z, codes, indices, threads);                                                             \
  }                                                                                                                    \
  int64_t weighted_atoms_##suffix(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k,                  \
                                  const T *weights, const int64_t *indices, const T *values, const int64_t *support,   \
                                  const T *start, T *out, int64_t threads) {                                           \
    return CALL(weighted_atoms<T>, tokens, d_in, n, degree, k, weights, indices, values, support, start, out,          \
                threads);                                                                                              \
  }                                                                                                                    \
  void atom_products_##suffix(int64_t tokens, int64_t d_in, int64_t degree, int64_t k, const T *y,                     \
                              const int64_t *indices, const T *values, const int64_t *support, T *out,                 \
                              int64_t threads) {                                                                       \
    CALL(atom_products<T>, tokens, d_in, degree, k, y, indices, values, support, out, threads);                        \
  }                                                                                                                    \
  void atom_gradient_##suffix(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, const T *weights,    \
                              const int64_t *indices, const T *y, const int64_t *support, T *out, int64_t threads) {   \
    CALL(atom_gradient<T>, tokens, d_in, n, degree, k, weights, indices, y, support, out, threads);                    \
  }                                                                                                                    \
  void dense_atom_gradient_##suffix(int64_t tokens, int64_t d_in, int64_t n, int64_t k, const T *weights,              \
                                    const int64_t *indices, const T *y, T *out, int64_t threads) {                     \
    CALL(dense_atom_gradient<T>, tokens, d_in, n, k, weights, indices, y, out, threads);                               \
  }                                                                                                                    \
  int64_t loss_sums_##suffix(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, int64_t always_on,    \
                             const T *u, const T *codes, const int64_t *indices, const T *unit, const T *inverse,      \
                             const int64_t *support, const T *encoder, T *left, T *errors, T *into_bias,               \
                             T *into_encoder, T *into_rows, T *into_atoms, int64_t threads) {                          \
    return CALL(loss_sums<T>, tokens, d_in, n, degree, k, always_on, u, codes, indices, unit, inverse, support,        \
                encoder, left, errors, into_bias, into_encoder, into_rows, into_atoms, threads);                       \
  }                                                                                                                    \
  int64_t gomp_##suffix(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, int64_t block,             \
                        int64_t magnitude, const T *x, const T *values, const int64_t *support, int64_t *indices,      \
                        T *codes, int64_t threads) {                                                                   \
    return CALL(gomp<T>, tokens, d_in, n, degree, k, block, magnitude, x, values, support, indices, codes, threads);   \
  }                                                                                                                    \
  int64_t matching_pursuit_##suffix(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k,                \
                                    int64_t magnitude, int64_t refit, const T *x, const T *values,                     \
                                    const int64_t *support, const T *gram, int64_t *indices, T *codes,                 \
                                    int64_t threads) {                                                                 \
    return CALL(matching_pursuit<T>, tokens, d_in, n, degree, k, magnitude, refit, x, values, support, gram, indices,  \
                codes, threads);                                                                                       \
  }                                                                                                                    \
  int64_t refit_##suffix(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, const T *x,               \
                         const T *values, const int64_t *support, int64_t *indices, T *codes, int64_t threads) {       \
    return CALL(refit<T>, tokens, d_in, n, degree, k, x, values, support, indices, codes, threads);                    \
  }                                                                                                                    \
  void unit_norm_##suffix(int64_t n, int64_t degree, const T *values, T *unit, T *inverse, int64_t threads) {          \
    CALL(unit_norm<T>, n, degree, values, unit, inverse, threads);                                                     \
  }                                                                                                                    \
  void unit_norm_gradient_##suffix(int64_t n, int64_t degree, const T *grad, const T *unit, const T *inverse, T *out,  \
                                   int64_t threads) {                                                                  \
    CALL(unit_norm_gradient<T>, n, degree, grad, unit, inverse, out, threads);                                         \
  }

extern "C" {
EXPORT(float, f32)
EXPORT(double, f64)
// parameters: of each its size, and the addresses of its values, gradient, mean and square (see cpu_adam.h).
void clipped_adam(int64_t count, const int64_t *parameters, double step_size, double correction, double beta1,
                  double beta2, double eps, double max_norm, int64_t threads) {
  CALL(clipped_adam, count, parameters, step_size, correction, beta1, beta2, eps, max_norm, threads);
}
void best_states(int64_t n, int64_t steps, int64_t bits, const float *targets, const float *weights,
                 const float *values, const int64_t *starts, const int64_t *ends, int64_t *path, int64_t threads) {
  CALL(best_states, n, steps, bits, targets, weights, values, starts, ends, path, threads);
}
// Use no instructions beyond `limit` (0 baseline, 1 AVX2, 2 AVX-512) or this machine; returns what is used. For tests.
int limit_level(int limit) { return level = std::min(limit, highest_level()); }
// Returns the way so far.
int set_way_to_update(int way) { return std::exchange(way_to_update, Way(way)); }
int interface_version() { return 7; } // cpu.py refuses any other: raise both when a signature changes
}
