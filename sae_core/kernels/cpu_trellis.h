// Viterbi's algorithm on the trellis of sae_core/trellis.py: a state is the last 12 bits of a path, a step adds BITS.

constexpr int64_t STATES = 1 << 12;

// One atom's path. Costs are those that torch's operations give, bit for bit: no product is fused with a sum.
template <int BITS>
__attribute__((optimize("fp-contract=off"))) void
viterbi(const float *targets, const float *weights, const float *values, int64_t steps, int64_t start, int64_t end,
        float *cost, float *least, uint8_t *came_from, int64_t *path) {
  using Vec = Traits<float>::Vec;
  typedef int32_t Int __attribute__((vector_size(VECTOR_BYTES)));
  typedef Vec Unaligned __attribute__((aligned(4), may_alias));
  constexpr int64_t LANES = VECTOR_BYTES / sizeof(float), BRANCHES = 1 << BITS, BEFORE = STATES / BRANCHES;
  typedef uint8_t Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
  const auto at = [](auto *pointer) -> Unaligned & { return *(Unaligned *)pointer; };
  Int spread; // lane i of a vector of new states follows on those of number i / BRANCHES
  for (int i = 0; i < LANES; i++) spread[i] = i >> BITS;
  std::fill_n(cost, STATES, start < 0 ? 0.f : std::numeric_limits<float>::infinity());
  if (start >= 0) cost[start] = 0;
  for (int64_t t = 0; t < steps; t++) {
    // The state 4 q + s, say, follows on those whose last bits are q: q, q + 1024, q + 2048 and q + 3072.
    for (int64_t q = 0; q < BEFORE; q += LANES) {
      Vec best = at(cost + q);
      Int which = {};
      for (int64_t b = 1; b < BRANCHES; b++) {
        const Vec c = at(cost + b * BEFORE + q);
        const auto better = c < best;
        best = better ? c : best;
        which = better ? Int{} + int32_t(b) : which;
      }
      at(least + q) = best;
      *(Bytes *)(came_from + t * BEFORE + q) = __builtin_convertvector(which, Bytes);
    }
    for (int64_t s = 0; s < STATES; s += LANES) {
      const Vec from = __builtin_shuffle(at(least + (s >> BITS)), spread);
      const Vec error = (targets[t] - at(values + s)) * weights[t];
      const Vec square = error * error;
      at(cost + s) = square + from;
    }
  }
  int64_t state = end < 0 ? std::min_element(cost, cost + STATES) - cost : end;
  for (int64_t t = steps - 1; t >= 0; t--) {
    path[t] = state;
    const int64_t shorter = state >> BITS;
    state = came_from[t * BEFORE + shorter] * BEFORE + shorter;
  }
}

// path (n, steps): the states of the paths with the least sum of (weight * error)^2; targets (n, steps), weights
// (steps,), values (4096,); starts and ends (n,) are the states before the first step and after the last, or null.
template <int BITS>
void all_paths(int64_t n, int64_t steps, const float *targets, const float *weights, const float *values,
               const int64_t *starts, const int64_t *ends, int64_t *path, int64_t threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<uint8_t> came_from(steps * (STATES >> BITS) + 64);
    std::vector<float> cost(STATES + 16), least((STATES >> BITS) + 16);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++)
      viterbi<BITS>(targets + i * steps, weights, values, steps, starts ? starts[i] : -1, ends ? ends[i] : -1,
                    align(cost.data()), least.data(), came_from.data(), path + i * steps);
  }
}

inline void best_states(int64_t n, int64_t steps, int64_t bits, const float *targets, const float *weights,
                        const float *values, const int64_t *starts, const int64_t *ends, int64_t *path,
                        int64_t threads) {
  (bits == 4   ? all_paths<4>
   : bits == 2 ? all_paths<2>
               : all_paths<1>)(n, steps, targets, weights, values, starts, ends, path, threads);
}
