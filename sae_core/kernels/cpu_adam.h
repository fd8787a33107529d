// Clipping by the norm of all gradients, then Adam's step: torch.nn.utils.clip_grad_norm_ and torch.optim.Adam in one
// call, since for a small SAE the calls cost several times what they do.

inline Traits<float>::Vec root(Traits<float>::Vec a) {
#if LEVEL == 2
  return (Traits<float>::Vec)_mm512_sqrt_ps((__m512)a);
#elif LEVEL == 1
  return (Traits<float>::Vec)_mm256_sqrt_ps((__m256)a);
#else
  for (int i = 0; i < int(VECTOR_BYTES / sizeof(float)); i++) a[i] = std::sqrt(a[i]);
  return a;
#endif
}

// A parameter: its values, gradient, and Adam's running means of gradients and of their squares.
struct Parameter {
  int64_t size;
  float *values;
  const float *gradient;
  float *mean, *square;
};

// table: of each parameter the numbers that make it up.
// step_size = lr / (1 - beta1^step), correction = sqrt(1 - beta2^step).
inline void clipped_adam(int64_t count, const int64_t *table, double step_size, double correction, double beta1,
                         double beta2, double eps, double max_norm, int64_t threads) {
  using Vec = Traits<float>::Vec;
  typedef Vec Unaligned __attribute__((aligned(4), may_alias));
  constexpr int64_t LANES = VECTOR_BYTES / sizeof(float), PART = 1 << 14;
  std::vector<Parameter> parameters;
  for (const int64_t *of = table; of < table + 5 * count; of += 5)
    parameters.push_back({of[0], (float *)of[1], (const float *)of[2], (float *)of[3], (float *)of[4]});
  double energy = 0;
  for (const Parameter &p : parameters)
    for (int64_t at = 0; at < p.size; at += PART)
      energy += dot(p.gradient + at, p.gradient + at, std::min(PART, p.size - at));
  const double share = max_norm / (std::sqrt(energy) + 1e-6);
  const float scale = share > 1 ? 1.f : float(share); // NaN stays
  const float new_mean = float(1 - beta1), old_square = float(beta2), new_square = float(1 - beta2);
  const float rate = float(step_size), unbias = float(1 / correction), least = float(eps);
  for (const Parameter &p : parameters) {
#pragma omp parallel for schedule(static) num_threads(threads) if (p.size > PART)
    for (int64_t part = 0; part < p.size; part += PART) {
      const int64_t end = std::min(part + PART, p.size);
      int64_t at = part;
      for (; at + LANES <= end; at += LANES) {
        const auto vec = [&](auto *pointer) -> Unaligned & { return *(Unaligned *)(pointer + at); };
        const Vec g = vec(p.gradient) * scale, mean = vec(p.mean) + (g - vec(p.mean)) * new_mean;
        const Vec square = vec(p.square) * old_square + g * g * new_square;
        vec(p.mean) = mean;
        vec(p.square) = square;
        vec(p.values) -= rate * mean / (root(square) * unbias + least);
      }
      for (; at < end; at++) {
        const float g = p.gradient[at] * scale;
        p.mean[at] += (g - p.mean[at]) * new_mean;
        p.square[at] = p.square[at] * old_square + g * g * new_square;
        p.values[at] -= rate * p.mean[at] / (std::sqrt(p.square[at]) * unbias + least);
      }
    }
  }
}
