// Greedy pursuits: atoms picked by their correlation with what is left. Definitions: pursuit/reference.py.

// Greedy pursuit that makes all correlations anew each step, the `block` best atoms a step. Orthogonal: least squares
// on all picks after each step (generalised OMP). Else matching pursuit, one atom a step, with least squares at the end
// if `refit`.
template <typename T, typename Index> struct Greedy {
  static constexpr int TILE = Lanes<T>::TILE;
  Atoms<T, Index> atoms;
  int k, block;
  bool magnitude, orthogonal, refit;
  const T *x;
  T *codes;
  int64_t *indices;

  void run(int64_t tokens, int64_t threads) const {
#pragma omp parallel num_threads(threads)
    {
      LeastSquares<T, Index> fit(atoms, k);
      if (refit && !orthogonal && atoms.support) fit.will_make_products();
      std::vector<T> room(size_t(atoms.d_in) * TILE + 64), z(MAX_SAMPLE * TILE + 64);
      T *tile = align<T>(room.data());
      Selections<T> best(TILE, atoms.n, block);
      Encoder<T, Index> encoder(atoms.n, atoms.degree, atoms.values, nullptr, atoms.support, tile, align<T>(z.data()),
                                best);
      Excluded<T> excluded(atoms.n);
      encoder.magnitude = magnitude;
      encoder.excluded = &excluded;
      std::vector<int64_t> latents(size_t(block) * TILE);
      std::vector<T> scores(size_t(block) * TILE);
#pragma omp for schedule(dynamic)
      for (int64_t first = 0; first < tokens; first += TILE) {
        const int here = int(std::min<int64_t>(TILE, tokens - first));
        fit.start(x + first * atoms.d_in, here, indices + first * k);
        excluded.clear();
        for (int done = 0; done < k && fit.still_active(); done += best.k) {
          best.k = std::min(block, k - done);
          transpose<T>(fit.residual, TILE, atoms.d_in, tile, TILE, TILE);
          pick(encoder, fit, latents.data(), scores.data());
          for (int i = 0; i < best.k; i++) {
            for (int t = 0; t < here; t++)
              if (fit.active >> t & 1) {
                const int64_t latent = latents[t * best.k + i];
                excluded.add(latent, t);
                fit.take(t, latent);
                if (!orthogonal) fit.project(t);
              }
            if (orthogonal) fit.append(fit.active);
          }
          // One at a time, picks are far from dependent and earlier ones stay orthogonal to the residual.
          if (orthogonal) fit.correct(block == 1 ? done : 0);
        }
        if (orthogonal) fit.correct(0);
        else if (refit) fit.refit();
        fit.write(here, codes + first * k);
      }
    }
  }

  // latents (TILE, best.k): the best of every active token; one without any that correlates is active no more.
  void pick(Encoder<T, Index> &encoder, LeastSquares<T, Index> &fit, int64_t *latents, T *scores) const {
    Selections<T> &best = encoder.best;
    if (best.k == 1) encoder.argmax(latents, scores);
    else encoder.run(fit.active);
    for (int t = 0; t < TILE; t++) {
      if (!(fit.active >> t & 1)) continue;
      if (best.k > 1) best.of[t].write(best.k, scores + t * best.k, latents + t * best.k);
      const T *mine = scores + t * best.k;
      if (latents[t * best.k] < 0 || !fit.matters(t, *std::max_element(mine, mine + best.k)))
        fit.active &= ~(uint32_t(1) << t);
    }
  }
};

// Matching pursuit: all correlations once, then each pick changes them by its row of the Gram matrix. Where there is no
// such row, only those are changed that share a row of x with the pick.
template <typename T, typename Index> struct MatchingPursuit {
  static constexpr int TILE = Lanes<T>::TILE;

  Atoms<T, Index> atoms;
  int k;
  bool magnitude, refit;
  bool led;          // the largest correlation is found among Leaders, not among all
  int64_t kept;      // rows of the Gram matrix of sparse atoms
  const T *x, *gram; // gram (n, n), of dense atoms only
  T *codes;
  int64_t *indices;

  int64_t padded() const { return Columns<T>::padded(atoms.n); }

  // Take the picks of token t, and their codes for where no refit follows; z, `spare` (both (padded,)) and `leaders`
  // are its own to use up. z holds NaN where it must not be picked.
  void pursue(GramRows<T, Index> &rows, T *spare, Leaders<T, Index> &leaders, T *z, LeastSquares<T, Index> &fit,
              int t) const {
    T *r = fit.left(t);
    const T whole = fit.norm[t] * fit.norm[t];
    T energy = whole; // of what is left: each pick takes its code's square
    const T *row = nullptr;
    T code = 0;
    leaders.complete = false;
    for (int s = 0; s < k; s++) {
      if (!(energy > T(SURELY_LEFT) * whole) && !fit.has_left(t)) return;
      const int64_t latent = led ? leaders.best(z) : Columns<T>(z, atoms.n, magnitude, row, code).best();
      if (latent < 0 || !fit.matters(t, z[latent])) return;
      code = z[latent];
      energy -= code * code;
      fit.take(t, latent);
      fit.codes[s * TILE + t] = code;
      z[latent] = std::numeric_limits<T>::quiet_NaN();
      atoms.add(latent, -code, r);
      row = rows.any() ? rows.of(latent, spare) : nullptr;
      if (!row && led) rows.by_row.add_products(atoms, latent, -code, z, leaders.watch());
      else if (!row) rows.by_row.add_products(atoms, latent, -code, z);
      if (fit.known && row) fit.keep_products(t, row);
    }
  }

  void run(int64_t tokens, int64_t threads) const {
    using E = Encoder<T, Index>;
    const ByRow<T, Index> by_row(atoms);
    GramRows<T, Index> rows(atoms, gram, by_row, kept, padded());
#pragma omp parallel num_threads(threads)
    {
      LeastSquares<T, Index> fit(atoms, k);
      if (refit && rows.any()) fit.will_keep_products();
      else if (refit) fit.will_make_products();
      std::vector<T> room(size_t(atoms.d_in) * TILE + 64), z_room(BLOCK * TILE + 64);
      std::vector<T> by_token_room(size_t(padded()) * (TILE + 1) + 64);
      T *tile = align<T>(room.data()), *z = align<T>(z_room.data()), *by_token = align<T>(by_token_room.data());
      T *spare = by_token + padded() * TILE;
      Selections<T> unused(0, 1, 1);
      E encoder(atoms.n, atoms.degree, atoms.values, nullptr, atoms.support, tile, z, unused);
      Leaders<T, Index> leaders(led ? atoms.n : 0, magnitude);
#pragma omp for schedule(dynamic)
      for (int64_t first = 0; first < tokens; first += TILE) {
        const int here = int(std::min<int64_t>(TILE, tokens - first));
        fit.start(x + first * atoms.d_in, here, indices + first * k);
        transpose<T>(fit.target, TILE, atoms.d_in, tile, TILE, TILE);
        for (int64_t j = 0; j < atoms.n; j += BLOCK) {
          const int count = int(std::min<int64_t>(BLOCK, atoms.n - j));
          encoder.multiply(j, count);
          for (int64_t i = count * TILE; i < BLOCK * TILE; i++) z[i] = std::numeric_limits<T>::quiet_NaN();
          transpose<T>(z, BLOCK, TILE, by_token + j, padded(), BLOCK);
        }
        for (int t = 0; t < here; t++)
          if (fit.active >> t & 1) pursue(rows, spare, leaders, by_token + t * padded(), fit, t);
        if (refit) fit.refit();
        fit.write(here, codes + first * k);
      }
    }
  }
};

// indices and codes (tokens, k) by generalised OMP; returns as `with_atoms`.
template <typename T>
int64_t gomp(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, int64_t block, int64_t magnitude,
             const T *x, const T *values, const int64_t *support, int64_t *indices, T *codes, int64_t threads) {
  return with_atoms(d_in, n, degree, values, support, threads, [&](const auto &atoms) {
    const int many = int(std::min(block, k));
    using Row = typename std::decay_t<decltype(atoms)>::Row;
    Greedy<T, Row>{atoms, int(k), many, magnitude != 0, true, true, x, codes, indices}.run(tokens, threads);
  });
}

// The same by matching pursuit. gram (n, n), or null, is for dense atoms only.
template <typename T>
int64_t matching_pursuit(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, int64_t magnitude,
                         int64_t refit, const T *x, const T *values, const int64_t *support, const T *gram,
                         int64_t *indices, T *codes, int64_t threads) {
  return with_atoms(d_in, n, degree, values, support, threads, [&](const auto &atoms) {
    using Row = typename std::decay_t<decltype(atoms)>::Row;
    using Updating = MatchingPursuit<T, Row>;
    const int64_t whole_tiles = (tokens + Updating::TILE - 1) / Updating::TILE * Updating::TILE;
    constexpr bool SHORT = LEVEL > 0 && std::is_same_v<T, float>;
    const WayToUpdate way(tokens, whole_tiles, k, d_in, n, degree, Columns<T>::padded(n) * int64_t(sizeof(T)),
                          SHORT && support);
    const int64_t kept = gram ? 0 : way.rows;
#if LEVEL
    if constexpr (SHORT)
      if (way.screened) {
        const ShortAtoms<Row> shorts(atoms);
        if (!shorts.entries.empty())
          return ScreenedPursuit<Row>{atoms, shorts, int(k), magnitude != 0, refit != 0, x, codes, indices}.run(
              tokens, threads);
      }
#endif
    if (gram || (support && !way.anew))
      Updating{atoms, int(k), magnitude != 0, refit != 0, way.led && !gram, kept, x, gram, codes, indices}.run(tokens,
                                                                                                               threads);
    else Greedy<T, Row>{atoms, int(k), 1, magnitude != 0, false, refit != 0, x, codes, indices}.run(tokens, threads);
  });
}
