// The kernels, written once in GCC's vector extensions; cpu.cpp includes this file once per instruction set, within a
// namespace and with LEVEL set (GCC 12 does not set __AVX512F__ and its like under a target pragma).
//
// T is float or double throughout.

#if LEVEL == 2
constexpr int VECTOR_BYTES = 64;
#elif LEVEL == 1
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

template <typename T> struct Traits;
template <> struct Traits<float> {
  typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t Key;
};
template <> struct Traits<double> {
  typedef double Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t Key;
};

#include "cpu_select.h"

#include "cpu_encode.h"

#include "cpu_sums.h"

#include "cpu_loss.h"

#include "cpu_adam.h"

#include "cpu_least_squares.h"

#include "cpu_leaders.h"

#include "cpu_gram.h"

#include "cpu_screen.h"

#include "cpu_greedy.h"

#include "cpu_trellis.h"
