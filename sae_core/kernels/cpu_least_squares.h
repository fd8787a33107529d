// Least squares on a token's picks, and the growing factor that makes it cheap. Definitions: pursuit/reference.py.
//
// Targets are scaled by a power of two first, so that no square over- or underflows and the codes scale with the target
// exactly.

// A residual (or the part of an atom outside the span of others) this small beside the whole is rounding.
template <typename T> T exhausted() { return std::pow(std::numeric_limits<T>::epsilon(), T(0.75)); }

constexpr double SURELY_LEFT = 0.01; // share of a target's energy that is more than sums of codes' squares are off

template <typename T, typename Index> struct Atoms {
  using Row = Index;
  int64_t d_in, n, degree;
  const T *values;
  const Index *support; // null: dense

  T product(int64_t latent, const T *y) const {
    return product_of(y, values + latent * degree, support ? support + latent * degree : nullptr, degree);
  }

  void add(int64_t latent, T weight, T *sum) const {
    const T *weights = values + latent * degree;
    if (!support)
      for (int64_t i = 0; i < degree; i++) sum[i] += weight * weights[i];
    else
      for (int64_t i = 0; i < degree; i++) sum[support[latent * degree + i]] += weight * weights[i];
  }

  // The atom as a dense vector: itself, or laid out in `room`, which is zero and is left so by `erase`.
  const T *spread(int64_t latent, T *room) const {
    if (!support) return values + latent * degree;
    add(latent, T(1), room);
    return room;
  }
  void erase(int64_t latent, T *room) const {
    if (support)
      for (int64_t i = 0; i < degree; i++) room[support[latent * degree + i]] = 0;
  }
};

// The Cholesky factor of the Gram matrix of each token's picks, an atom at a time; lanes are tokens. An atom that
// depends on earlier ones gets the inverse pivot 0, which makes its code 0 and takes it out of every later sum.
template <typename T> struct Factor : Lanes<T> {
  using typename Lanes<T>::Vec;
  using Lanes<T>::TILE, Lanes<T>::VECS;
  int size = 0;
  std::vector<T> room;
  Vec *rows, *inverse; // row s: s * VECS vectors, the rows one after another; (k, VECS)

  explicit Factor(int k) : room(size_t(k) * (k + 1) / 2 * TILE + 64) {
    inverse = reinterpret_cast<Vec *>(align<T>(room.data()));
    rows = inverse + int64_t(k) * VECS;
  }

  Vec *row(int s) const { return rows + int64_t(s) * (s - 1) / 2 * VECS; }

  // rhs - sum of row[j] * x[j] over from..to-1, one vector of lanes; two sums, since one would wait for itself.
  static Vec less(Vec rhs, const Vec *row, const Vec *x, int from, int to) {
    Vec odd{};
    int j = from;
    for (; j + 2 <= to; j += 2) {
      rhs -= row[j * VECS] * x[j * VECS];
      odd -= row[(j + 1) * VECS] * x[(j + 1) * VECS];
    }
    if (j < to) rhs -= row[j * VECS] * x[j * VECS];
    return rhs + odd;
  }

  // products (size + 1, VECS): the new atom's with each before it, and with itself.
  void append(const Vec *products) {
    Vec *mine = row(size);
    for (int v = 0; v < VECS; v++) {
      const Vec whole = products[size * VECS + v];
      Vec rest = whole;
      for (int i = 0; i < size; i++) {
        const Vec w = less(products[i * VECS + v], row(i) + v, mine + v, 0, i) * inverse[i * VECS + v];
        mine[i * VECS + v] = w;
        rest -= w * w;
      }
      for (int t = 0; t < Lanes<T>::LANES; t++) {
        const bool independent = rest[t] > whole[t] * exhausted<T>();
        inverse[size * VECS + v][t] = independent ? 1 / std::sqrt(rest[t]) : T(0);
      }
    }
    size++;
  }

  // x (size, VECS) = Gram^-1 x, x[0..first-1] being 0.
  void solve(Vec *x, int first) const {
    for (int v = 0; v < VECS; v++) {
      for (int i = first; i < size; i++)
        x[i * VECS + v] = less(x[i * VECS + v], row(i) + v, x + v, first, i) * inverse[i * VECS + v];
      for (int i = size - 1; i >= 0; i--) {
        const Vec code = x[i * VECS + v] * inverse[i * VECS + v];
        x[i * VECS + v] = code;
        for (int j = 0; j < i; j++) x[j * VECS + v] -= row(i)[j * VECS + v] * code;
      }
    }
  }
};

// A tile of targets, each approximated by its own picks.
template <typename T, typename Index> struct LeastSquares : Lanes<T> {
  using typename Lanes<T>::Vec;
  using Lanes<T>::LANES, Lanes<T>::TILE, Lanes<T>::VECS;
  const Atoms<T, Index> &atoms;
  int k;
  Factor<T> factor;
  std::vector<T> room, spread, known_room, picked_room;
  T *known = nullptr;      // (k * (k + 1) / 2, TILE): see `keep_products`
  T *picked = nullptr;     // (d_in, many): see `make_products`
  int many = 0;            // k, in whole vectors
  T *target, *residual;    // (TILE, d_in), scaled
  T *codes, *step;         // (k, TILE)
  T back[TILE];            // what undoes a target's scale
  T norm[TILE];            // of the scaled target
  int count[TILE];         // picks so far, until a token's target is exhausted
  uint32_t active, broken; // tokens that go on; tokens that are not finite
  int64_t *picks;          // (tokens, k)

  LeastSquares(const Atoms<T, Index> &atoms_, int k_)
      : atoms(atoms_), k(k_), factor(k_), room(size_t(2 * atoms_.d_in + 2 * k_) * TILE + 64),
        spread(size_t(atoms_.d_in)) {
    codes = align<T>(room.data());
    step = codes + int64_t(k) * TILE;
    target = step + int64_t(k) * TILE;
    residual = target + atoms.d_in * TILE;
  }

  T *left(int t) const { return residual + t * atoms.d_in; }

  void start(const T *x, int here, int64_t *picks_) {
    picks = picks_;
    factor.size = 0;
    active = broken = 0;
    const int64_t d_in = atoms.d_in;
    std::memset(codes, 0, size_t(k) * TILE * sizeof(T));
    std::memset(target, 0, size_t(d_in) * TILE * sizeof(T));
    for (int t = 0; t < here; t++) {
      T most = 0;
      bool finite = true;
      for (int64_t i = 0; i < d_in; i++) {
        const T size = std::fabs(x[t * d_in + i]);
        finite &= size <= std::numeric_limits<T>::max();
        most = size > most ? size : most;
      }
      constexpr int LIMIT = std::numeric_limits<T>::max_exponent - 2; // both powers must be finite and not 0
      const int exponent = finite && most > 0 ? std::min(std::max(std::ilogb(most), -LIMIT), LIMIT) : 0;
      const T scale = std::ldexp(T(1), -exponent);
      back[t] = std::ldexp(T(1), exponent);
      if (!finite) broken |= uint32_t(1) << t;
      else
        for (int64_t i = 0; i < d_in; i++) target[t * d_in + i] = x[t * d_in + i] * scale;
      norm[t] = std::sqrt(dot(target + t * d_in, target + t * d_in, d_in));
      active |= uint32_t(finite) << t;
    }
    std::memcpy(residual, target, size_t(d_in) * TILE * sizeof(T));
    for (int t = 0; t < TILE; t++) count[t] = 0;
    std::fill(known_room.begin(), known_room.end(), T(0)); // what tokens of fewer than k picks leave
    for (int t = here; t < TILE; t++) norm[t] = 0;
  }

  // Whether a correlation, or a residual's norm, is more than rounding beside the target.
  bool matters(int t, T size) const { return std::fabs(size) > exhausted<T>() * norm[t]; }

  bool has_left(int t) const { return matters(t, std::sqrt(dot(left(t), left(t), atoms.d_in))); }

  // Whether any token has something left to approximate; those that have not are active no more.
  bool still_active() {
    for (int t = 0; t < TILE; t++) active &= ~(uint32_t(!has_left(t)) << t);
    return active != 0;
  }

  void take(int t, int64_t latent) { picks[t * k + count[t]++] = latent; }

  // Subtract from a token's residual its projection on the pick just taken: matching pursuit's step.
  void project(int t) {
    const int s = count[t] - 1;
    const int64_t latent = picks[t * k + s];
    const T code = atoms.product(latent, left(t));
    atoms.add(latent, -code, left(t));
    codes[s * TILE + t] = code;
  }

  T *known_of(int s) const { return known + int64_t(s) * (s + 1) / 2 * TILE; }

  // Room for `keep_products`.
  void will_keep_products() {
    known_room.resize(size_t(k) * (k + 1) / 2 * TILE + 64);
    known = align<T>(known_room.data());
  }

  // For `refit`: the products of the pick just taken with those so far, out of its row of the Gram matrix, which is at
  // hand now.
  void keep_products(int t, const T *row) {
    const int s = count[t] - 1;
    T *products = known_of(s);
    for (int i = 0; i <= s; i++) products[i * TILE + t] = row[picks[t * k + i]];
  }

  // Room for `make_products`.
  void will_make_products() {
    will_keep_products();
    many = (k + LANES - 1) / LANES * LANES;
    picked_room.assign(size_t(atoms.d_in) * many + 64, T(0));
    picked = align<T>(picked_room.data());
  }

  // For `refit`: the products of all of a token's picks, sparse ones. The picks are laid out side by side, so that each
  // has its products with all others at once, by `degree` multiply-adds of whole rows.
  void make_products(int t) {
    const int64_t *mine = picks + t * k;
    const int vecs = (count[t] + LANES - 1) / LANES;
    const auto each = [&](int s, const auto &use) {
      for (int64_t e = mine[s] * atoms.degree; e < (mine[s] + 1) * atoms.degree; e++)
        use(picked + int64_t(atoms.support[e]) * many, atoms.values[e]);
    };
    for (int s = 0; s < count[t]; s++) each(s, [&](T *row, T value) { row[s] += value; });
    for (int v = 0; v < vecs; v++)
      for (int s = v * LANES; s < count[t]; s++) {
        Vec sum{};
        each(s, [&](const T *row, T value) { sum += reinterpret_cast<const Vec *>(row)[v] * value; });
        T *products = known_of(s) + v * LANES * TILE + t;
        for (int i = 0; i < std::min(LANES, s + 1 - v * LANES); i++) products[i * TILE] = sum[i];
      }
    for (int s = 0; s < count[t]; s++) each(s, [&](T *row, T) { row[s] = 0; });
  }

  // Into the factor with the next pick of every token that has one; a token without gets an atom of no length.
  void append(uint32_t picked) {
    const int s = factor.size;
    for (int t = 0; t < TILE; t++) {
      if (!(picked >> t & 1)) {
        for (int i = 0; i <= s; i++) step[i * TILE + t] = 0;
        continue;
      }
      const int64_t *mine = picks + t * k;
      const T *atom = atoms.spread(mine[s], spread.data());
      for (int i = 0; i <= s; i++) step[i * TILE + t] = atoms.product(mine[i], atom);
      atoms.erase(mine[s], spread.data());
    }
    factor.append(reinterpret_cast<const Vec *>(step));
  }

  // Move the codes to the least squares solution; picks before `first` are orthogonal to the residual already.
  void correct(int first) {
    const int size = factor.size;
    for (int t = 0; t < TILE; t++)
      for (int i = 0; i < size; i++)
        step[i * TILE + t] = i >= first && i < count[t] ? atoms.product(picks[t * k + i], left(t)) : T(0);
    factor.solve(reinterpret_cast<Vec *>(step), first);
    for (int64_t i = 0; i < int64_t(size) * TILE; i++) codes[i] += step[i];
    std::memcpy(residual, target, size_t(atoms.d_in) * TILE * sizeof(T));
    for (int t = 0; t < TILE; t++)
      for (int i = 0; i < count[t]; i++) atoms.add(picks[t * k + i], -codes[i * TILE + t], left(t));
  }

  // Least squares on the picks that each token has.
  void refit() {
    const int most = *std::max_element(count, count + TILE);
    std::memset(codes, 0, size_t(k) * TILE * sizeof(T));
    std::memcpy(residual, target, size_t(atoms.d_in) * TILE * sizeof(T));
    if (picked)
      for (int t = 0; t < TILE; t++) make_products(t);
    for (int s = 0; s < most; s++) {
      if (known) {
        factor.append(reinterpret_cast<const Vec *>(known_of(s)));
        continue;
      }
      uint32_t having = 0;
      for (int t = 0; t < TILE; t++) having |= uint32_t(s < count[t]) << t;
      append(having);
    }
    correct(0);
    correct(0); // once more: what the factor's rounding left
  }

  // Codes in the target's units; picks that a token never made become the unused atoms of lowest index, of code 0.
  void write(int here, T *out) const {
    for (int t = 0; t < here; t++) {
      int64_t *mine = picks + t * k;
      for (int i = 0; i < k; i++)
        out[t * k + i] = broken >> t & 1 ? std::numeric_limits<T>::quiet_NaN()
                                         : (i < count[t] ? codes[i * TILE + t] * back[t] : T(0));
      int64_t unused = 0;
      for (int i = count[t]; i < k; i++) {
        while (std::find(mine, mine + i, unused) != mine + i) unused++;
        mine[i] = unused;
      }
    }
  }
};

// Call `run` with the atoms, their support in as few bits as name a row and a latent. Returns how many rows of the
// support are not in 0..d_in-1; where there are any, nothing else is done.
template <typename T, typename Run>
int64_t with_atoms(int64_t d_in, int64_t n, int64_t degree, const T *values, const int64_t *support, int64_t threads,
                   const Run &run) {
  const auto go = [&](auto index) {
    using Index = decltype(index);
    const Compact<Index> compact(support, n * degree, d_in, threads);
    if (!compact.wrong) run(Atoms<T, Index>{d_in, n, degree, values, compact.data()});
    return compact.wrong;
  };
  return std::max(d_in, n) <= (1 << 16) ? go(uint16_t()) : go(uint32_t());
}

// codes (tokens, k): least squares on given picks. Returns how many of those are not in 0..n-1, or as `with_atoms`.
template <typename T>
int64_t refit(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, const T *x, const T *values,
              const int64_t *support, int64_t *indices, T *codes, int64_t threads) {
  constexpr int TILE = Lanes<T>::TILE;
  int64_t wrong = 0;
  for (int64_t i = 0; i < tokens * k; i++) wrong += indices[i] < 0 || indices[i] >= n;
  if (wrong) return wrong;
  return with_atoms(d_in, n, degree, values, support, threads, [&](const auto &atoms) {
#pragma omp parallel num_threads(threads)
    {
      LeastSquares<T, typename std::decay_t<decltype(atoms)>::Row> fit(atoms, int(k));
      if (support) fit.will_make_products();
#pragma omp for schedule(dynamic)
      for (int64_t first = 0; first < tokens; first += TILE) {
        const int here = int(std::min<int64_t>(TILE, tokens - first));
        fit.start(x + first * d_in, here, indices + first * k);
        for (int t = 0; t < here; t++) fit.count[t] = int(k);
        fit.refit();
        fit.write(here, codes + first * k);
      }
    }
  });
}
