// The sums over picked atoms that decoding and every gradient are made of, and the unit norm.

template <typename T> T dot(const T *a, const T *b, int64_t count) {
  using Vec = typename Traits<T>::Vec;
  typedef Vec Unaligned __attribute__((aligned(sizeof(T)), may_alias));
  constexpr int LANES = VECTOR_BYTES / sizeof(T);
  T sum = 0;
  int64_t i = 0;
  if (count >= LANES) { // adding the lanes up costs more than a few products do
    Vec sums{};
    for (; i + LANES <= count; i += LANES)
      sums += *reinterpret_cast<const Unaligned *>(a + i) * *reinterpret_cast<const Unaligned *>(b + i);
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
  }
  for (; i < count; i++) sum += a[i] * b[i];
  return sum;
}

// In the sums below atoms are dense where `support` is null: degree = d_in, and rows are read in order.

// sum (d_in,) += weight * atom. Returns how many of the atom's rows are not in 0..d_in-1; those are left out.
template <typename T>
inline int64_t add_atom(T *sum, int64_t d_in, T weight, const T *values, const int64_t *support, int64_t degree) {
  int64_t wrong = 0;
  if (!support) {
    for (int64_t i = 0; i < degree; i++) sum[i] += weight * values[i];
    return 0;
  }
  for (int64_t i = 0; i < degree; i++) {
    if (uint64_t(support[i]) < uint64_t(d_in)) sum[support[i]] += weight * values[i];
    else wrong++;
  }
  return wrong;
}

// out (tokens, d_in) = start, or 0 where it is null, + sum over the k picks of weight * atom. Returns how many picks
// are not in 0..n-1 and how many rows not in 0..d_in-1; those are left out.
template <typename T>
int64_t weighted_atoms(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, const T *weights,
                       const int64_t *indices, const T *values, const int64_t *support, const T *start, T *out,
                       int64_t threads) {
  int64_t wrong = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : wrong)
  for (int64_t t = 0; t < tokens; t++) {
    T *sum = out + t * d_in;
    if (start) std::memcpy(sum, start + t * d_in, size_t(d_in) * sizeof(T));
    else std::memset(sum, 0, size_t(d_in) * sizeof(T));
    for (int j = 0; j < k; j++) {
      const int64_t latent = indices[t * k + j];
      if (latent < 0 || latent >= n) {
        wrong++;
        continue;
      }
      wrong += add_atom(sum, d_in, weights[t * k + j], values + latent * degree,
                        support ? support + latent * degree : nullptr, degree);
    }
  }
  return wrong;
}

// <atom, y>, the atom's rows being in 0..d_in-1.
template <typename T, typename Index>
inline T product_of(const T *y, const T *values, const Index *support, int64_t degree) {
  if (!support) return dot(y, values, degree);
  T sum = 0;
  for (int64_t i = 0; i < degree; i++) sum += y[support[i]] * values[i];
  return sum;
}

// out (tokens, k) = <atom picked, y of the token>.
template <typename T>
void atom_products(int64_t tokens, int64_t d_in, int64_t degree, int64_t k, const T *y, const int64_t *indices,
                   const T *values, const int64_t *support, T *out, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t t = 0; t < tokens; t++) {
    const T *row = y + t * d_in;
    for (int j = 0; j < k; j++) {
      const int64_t first = indices[t * k + j] * degree;
      out[t * k + j] = product_of(row, values + first, support ? support + first : nullptr, degree);
    }
  }
}

// out (n, degree) = sum over the tokens that picked an atom of weight * y, on its support. Each thread owns a range of
// atoms and walks all tokens in order: no two write to one place, and the sums are the same for every number of
// threads.
template <typename T>
void atom_gradient(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, const T *weights,
                   const int64_t *indices, const T *y, const int64_t *support, T *out, int64_t threads) {
#pragma omp parallel num_threads(threads)
  {
    const int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
    const int64_t from = n * part / parts, to = n * (part + 1) / parts;
    std::memset(out + from * degree, 0, size_t((to - from) * degree) * sizeof(T));
    for (int64_t t = 0; t < tokens; t++) {
      const T *row = y + t * d_in;
      for (int j = 0; j < k; j++) {
        const int64_t latent = indices[t * k + j];
        if (latent < from || latent >= to) continue;
        const T weight = weights[t * k + j];
        for (int64_t i = 0; i < degree; i++) out[latent * degree + i] += weight * row[support[latent * degree + i]];
      }
    }
  }
}

// Picks sorted by atom (by counting, so that an atom's tokens stay in order): a row that is too long to come back to is
// summed in one go.
struct PicksByAtom {
  std::vector<int64_t> end, pick; // (n + 1,): where each atom's picks end; (tokens * k,)

  PicksByAtom(int64_t n, int64_t picks, const int64_t *indices) : end(size_t(n) + 1, 0), pick(size_t(picks)) {
    for (int64_t p = 0; p < picks; p++) end[indices[p] + 1]++;
    for (int64_t j = 0; j < n; j++) end[j + 1] += end[j];
    for (int64_t p = 0; p < picks; p++) pick[end[indices[p]]++] = p; // end[j] moves from atom j's start to its end
  }

  template <typename Use> void each(int64_t latent, const Use &use) const {
    for (int64_t i = latent ? end[latent - 1] : 0; i < end[latent]; i++) use(pick[i]);
  }
};

// The same for dense atoms, out (n, d_in).
template <typename T>
void dense_atom_gradient(int64_t tokens, int64_t d_in, int64_t n, int64_t k, const T *weights, const int64_t *indices,
                         const T *y, T *out, int64_t threads) {
  const PicksByAtom picks(n, tokens * k, indices);
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
  for (int64_t j = 0; j < n; j++) {
    T *sum = out + j * d_in;
    std::memset(sum, 0, size_t(d_in) * sizeof(T));
    picks.each(j, [&](int64_t p) { add_atom<T>(sum, d_in, weights[p], y + p / k * d_in, nullptr, d_in); });
  }
}

// unit (n, degree) = values / ||values|| by rows, inverse (n,) = 1 / ||values||; a zero row stays zero.
template <typename T> void unit_norm(int64_t n, int64_t degree, const T *values, T *unit, T *inverse, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t j = 0; j < n; j++) {
    const T *row = values + j * degree;
    const T norm = std::sqrt(dot(row, row, degree));
    inverse[j] = T(1) / (norm < std::numeric_limits<T>::min() ? std::numeric_limits<T>::min() : norm);
    for (int64_t i = 0; i < degree; i++) unit[j * degree + i] = row[i] * inverse[j];
  }
}

// out = (grad - unit * <grad, unit>) * inverse, of one row; out may be grad.
template <typename T> inline void through_unit_norm(const T *grad, const T *unit, T inverse, int64_t degree, T *out) {
  const T along = dot(grad, unit, degree);
  for (int64_t i = 0; i < degree; i++) out[i] = (grad[i] - unit[i] * along) * inverse;
}

// The same by rows.
template <typename T>
void unit_norm_gradient(int64_t n, int64_t degree, const T *grad, const T *unit, const T *inverse, T *out,
                        int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t j = 0; j < n; j++)
    through_unit_norm(grad + j * degree, unit + j * degree, inverse[j], degree, out + j * degree);
}
