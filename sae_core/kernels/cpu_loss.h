// The gradient of the mean squared error of given codes on unit atoms, in one call. sae_core/gradients.py says the
// formulas, and sae_core/kernels/autograd.py what comes out.

// Atoms are dense where `support` is null: degree = d_in. Codes are those of an encoder of rows `encoder`: the unit
// atoms themselves, or rows (n, d_in) of its own; null where a pursuit made them. into_encoder is null with `encoder`,
// into_rows where those are not its own, into_atoms where atoms are frozen. Returns how many picks are not in 0..n-1;
// where there are any, nothing else is done.
template <typename T>
int64_t loss_sums(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, int64_t always_on, const T *u,
                  const T *codes, const int64_t *indices, const T *unit, const T *inverse, const int64_t *support,
                  const T *encoder, T *left, T *errors, T *into_bias, T *into_encoder, T *into_rows, T *into_atoms,
                  int64_t threads) {
  const int64_t picks = tokens * k;
  int64_t wrong = 0;
  for (int64_t p = 0; p < picks; p++) wrong += indices[p] < 0 || indices[p] >= n;
  if (wrong) return wrong;
  const T twice = T(2) / T(tokens);
  const bool own = encoder && encoder != unit;
  std::vector<T> into_codes(encoder ? size_t(picks) : 0);
  const bool sort = !support || own;
  const PicksByAtom by_atom(sort ? n : 0, sort ? picks : 0, indices);
  const auto rows_of = [&](int64_t latent) { return support ? support + latent * degree : nullptr; };
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
      T *r = left + t * d_in;
      std::memcpy(r, u + t * d_in, size_t(d_in) * sizeof(T));
      for (int64_t p = t * k; p < (t + 1) * k; p++)
        add_atom(r, d_in, -codes[p], unit + indices[p] * degree, rows_of(indices[p]), degree);
      std::fill(r, r + always_on, T(0));
      errors[t] = dot(r, r, d_in);
      if (!encoder) continue;
      for (int64_t p = t * k; p < (t + 1) * k; p++)
        into_codes[p] = -twice * product_of(r, unit + indices[p] * degree, rows_of(indices[p]), degree);
    }
    // Each thread owns a range of atoms, and then one of columns, and walks all tokens in order: no two write to one
    // place, and the sums are the same for every number of threads.
    const int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
    const int64_t from = n * part / parts, to = n * (part + 1) / parts;
    const auto add_pick = [&](int64_t p, T *sum) {
      const T *row = left + p / k * d_in, *x = u + p / k * d_in;
      const T of_left = -twice * codes[p], of_x = encoder && !own ? into_codes[p] : T(0);
      if (!support)
        for (int64_t i = 0; i < d_in; i++) sum[i] += of_left * row[i] + of_x * x[i];
      else {
        const int64_t *rows = rows_of(indices[p]);
        for (int64_t i = 0; i < degree; i++) sum[i] += of_left * row[rows[i]] + of_x * x[rows[i]];
      }
    };
    if (encoder) {
      std::fill(into_encoder + from, into_encoder + to, T(0));
      for (int64_t p = 0; p < picks; p++)
        if (indices[p] >= from && indices[p] < to) into_encoder[indices[p]] += into_codes[p];
    }
    if (own) {
      std::memset(into_rows + from * d_in, 0, size_t((to - from) * d_in) * sizeof(T));
      for (int64_t j = from; j < to; j++)
        by_atom.each(j, [&](int64_t p) {
          for (int64_t i = 0; i < d_in; i++) into_rows[j * d_in + i] += into_codes[p] * u[p / k * d_in + i];
        });
    }
    if (into_atoms) {
      std::memset(into_atoms + from * degree, 0, size_t((to - from) * degree) * sizeof(T));
      if (support) {
        for (int64_t p = 0; p < picks; p++)
          if (indices[p] >= from && indices[p] < to) add_pick(p, into_atoms + indices[p] * degree);
      } else
        for (int64_t j = from; j < to; j++) by_atom.each(j, [&](int64_t p) { add_pick(p, into_atoms + j * degree); });
      for (int64_t j = from; j < to; j++)
        through_unit_norm(into_atoms + j * degree, unit + j * degree, inverse[j], degree, into_atoms + j * degree);
    }
#pragma omp barrier
    const int64_t first = d_in * part / parts, last = d_in * (part + 1) / parts;
    std::fill(into_bias + first, into_bias + last, T(0));
    for (int64_t t = 0; t < tokens; t++)
      for (int64_t i = first; i < last; i++) into_bias[i] += left[t * d_in + i];
    for (int64_t i = first; i < last; i++) into_bias[i] *= twice;
    if (encoder && (own || !support))
      for (int64_t j = 0; j < n; j++)
        if (into_encoder[j] != 0)
          for (int64_t i = first; i < last; i++) into_bias[i] += into_encoder[j] * encoder[j * d_in + i];
#pragma omp barrier
#pragma omp single
    if (encoder && support && !own)
      for (int64_t j = 0; j < n; j++)
        if (into_encoder[j] != 0) add_atom(into_bias, d_in, into_encoder[j], unit + j * degree, rows_of(j), degree);
  }
  return 0;
}
