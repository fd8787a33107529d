// How matching pursuit keeps its correlations up to date: by rows of the atoms' Gram matrix, or by what a pick changes.

// For each row, the latents that use it and their values there: what a change of that row changes.
template <typename T, typename Index> struct ByRow : Lanes<T> {
  using typename Lanes<T>::Vec;
  using Lanes<T>::LANES;
  using typename Lanes<T>::Unaligned;
  static constexpr int TOGETHER = Leaders<T, Index>::TOGETHER, STRIDE = 16;
  static constexpr int64_t SHORT = 96, ROOM = 1024;
  std::vector<int64_t> start; // (d_in + 1,)
  std::vector<Index> latents; // with room to read `usual` beyond the last, as in `values`
  std::vector<T> values;
  int64_t usual = 0; // latents that few rows exceed, in whole strides

  explicit ByRow(const Atoms<T, Index> &atoms) : start(size_t(atoms.d_in) + 1, 0) {
    if (!atoms.support) return;
    const int64_t count = atoms.n * atoms.degree;
    const double mean = double(count) / double(atoms.d_in);
    usual = int64_t(mean + 2 * std::sqrt(mean)) / STRIDE * STRIDE + STRIDE;
    latents.resize(size_t(count + usual));
    values.resize(size_t(count + usual));
    for (int64_t i = 0; i < count; i++) start[atoms.support[i] + 1]++;
    for (int64_t r = 0; r < atoms.d_in; r++) start[r + 1] += start[r];
    std::vector<int64_t> next(start);
    for (int64_t i = 0; i < count; i++) {
      const int64_t row = atoms.support[i], at = next[row]++;
      latents[at] = Index(i / atoms.degree);
      values[at] = atoms.values[i];
      if (at > start[row] && latents[at - 1] == latents[at]) { // an atom that uses the row twice
        values[at] += values[at - 1];
        values[at - 1] = 0;
      }
    }
  }

  // products (n,) += weight * <atom, every atom>; `watch` is called with what changed, by fours: whose, and the values.
  template <typename Watch>
  void add_products(const Atoms<T, Index> &atoms, int64_t latent, T weight, T *products, Watch watch) const {
    if (usual <= SHORT) return add_laid_out(atoms, latent, weight, products, watch);
    for (int64_t e = latent * atoms.degree; e < (latent + 1) * atoms.degree; e++) {
      const int64_t row = atoms.support[e], end = start[row + 1];
      const T change = weight * atoms.values[e];
      for (int64_t i = start[row]; i < end; i += TOGETHER) {
        T sums[TOGETHER]; // four reads, then four writes: no read waits for a write that may be to its place
        if (i + TOGETHER <= end) {
          for (int j = 0; j < TOGETHER; j++) sums[j] = products[latents[i + j]] + change * values[i + j];
          for (int j = 0; j < TOGETHER; j++) products[latents[i + j]] = sums[j];
        } else
          for (int j = 0; j < TOGETHER; j++) {
            sums[j] = std::numeric_limits<T>::quiet_NaN();
            if (i + j < end) sums[j] = products[latents[i + j]] += change * values[i + j];
          }
        watch(&latents[i], sums);
      }
    }
  }

  void add_products(const Atoms<T, Index> &atoms, int64_t latent, T weight, T *products) const {
    add_products(atoms, latent, weight, products, [](const Index *, const T *) {});
  }

  // The same where rows are short. What is added is laid out side by side first, so that there is one loop instead of
  // one for each row, at whose end the processor guesses wrong.
  template <typename Watch>
  void add_laid_out(const Atoms<T, Index> &atoms, int64_t latent, T weight, T *products, Watch watch) const {
    alignas(64) T added[ROOM];
    alignas(64) Index whose[ROOM];
    int64_t many = 0;
    const auto flush = [&, watch] {
      for (int64_t i = many; i < many + TOGETHER; i++) added[i] = 0, whose[i] = 0; // changes nothing
      for (int64_t i = 0; i < many; i += TOGETHER) {
        T sums[TOGETHER];
        for (int j = 0; j < TOGETHER; j++) sums[j] = products[whose[i + j]] += added[i + j];
        watch(whose + i, sums);
      }
      many = 0;
    };
    for (int64_t e = latent * atoms.degree; e < (latent + 1) * atoms.degree; e++) {
      const int64_t row = atoms.support[e], end = start[row + 1];
      const T change = weight * atoms.values[e];
      for (int64_t i = start[row]; i < end; i += usual) {
        for (int64_t j = 0; j < usual; j += STRIDE) { // as often for most rows, which is guessed right
          for (int q = 0; q < STRIDE; q += LANES)
            *reinterpret_cast<Unaligned *>(added + many + j + q) =
                change * *reinterpret_cast<const Unaligned *>(values.data() + i + j + q);
          std::memcpy(whose + many + j, latents.data() + i + j, STRIDE * sizeof(Index));
        }
        many += std::min(end - i, usual);
        if (many + usual + TOGETHER > ROOM) flush();
      }
    }
    flush();
  }
};

// Rows of the Gram matrix. Those of sparse atoms are made when they are first asked for, and kept for all threads as
// long as there is room; further ones are made each time. So the rows, and what is computed from them, are the same
// whatever other threads do.
template <typename T, typename Index> struct GramRows {
  const Atoms<T, Index> &atoms;
  const T *whole; // (n, n), or null
  const ByRow<T, Index> &by_row;
  int64_t many, length;                     // rows there is room for, and how long each is: whole vectors
  std::vector<std::atomic<const T *>> kept; // (n,)
  std::unique_ptr<T[]> room;                // (many, length), not touched before a row is made
  std::atomic<int64_t> used{0};

  GramRows(const Atoms<T, Index> &atoms_, const T *whole_, const ByRow<T, Index> &by_row_, int64_t many_,
           int64_t length_)
      : atoms(atoms_), whole(whole_), by_row(by_row_), many(many_), length(length_), kept(many_ ? size_t(atoms_.n) : 0),
        room(new T[size_t(many_ * length_ + 64)]) {}

  bool any() const { return whole || many; }

  // Row `latent`; `spare` (length,) is for one that is not kept. Two threads may make the same row, which wastes one.
  const T *of(int64_t latent, T *spare) {
    if (whole) return whole + latent * atoms.n;
    if (const T *row = kept[size_t(latent)].load(std::memory_order_acquire)) return row;
    const int64_t at = used.load(std::memory_order_relaxed) < many ? used.fetch_add(1) : many;
    T *row = at < many ? align<T>(room.get()) + at * length : spare;
    std::memset(row, 0, size_t(length) * sizeof(T));
    by_row.add_products(atoms, latent, T(1), row);
    if (at < many) kept[size_t(latent)].store(row, std::memory_order_release);
    return row;
  }
};

// The cheapest way for matching pursuit to keep its correlations up to date. The unit of cost is the change of one
// correlation; the constants are what can be done instead in that time (measured, kernels/README.md).
struct WayToUpdate {
  static constexpr double LOOKED_AT = 10; // correlations, for the largest; with rows that is part of their use
  static constexpr double LED = 350, GATHERED = 16, RISING = 20; // Leaders: a pick; of n; of what changes
  static constexpr double STARTED = 1;  // the first correlation of a token with an atom, which changes from then on
  static constexpr double MADE = 24;    // products of correlations made anew, a tile of tokens at a time: 21 to 36
  static constexpr double SHORT = 40;   // the same in 16 bits
  static constexpr double NOTED = 17;   // correlations of 16 bits, for the largest
  static constexpr double CACHED = 64;  // bytes of a row used, where the rows fit a cache that others leave alone
  static constexpr double FETCHED = 12; // bytes of a row used, where they do not
  static constexpr double CACHE = 4 << 20;
  static constexpr double ROOM = 30 << 20; // bytes of rows; glibc returns more than 32 MiB to the system at every call
  bool anew = false, screened = false;
  bool led = false; // correlations that change: the largest is found among Leaders
  int64_t rows = 0; // of the Gram matrix, to keep; 0: change correlations

  // tokens_of_tiles: with those that the last tile lacks, which cost as much where all is made anew.
  WayToUpdate(int64_t tokens, int64_t tokens_of_tiles, int64_t k, int64_t d_in, int64_t n, int64_t degree,
              int64_t row_bytes, bool may_be_short) {
    const double picks = double(tokens * k), picks_of_tiles = double(tokens_of_tiles * k);
    const double changed = double(degree) * degree / d_in * n; // correlations that share a row of x with a pick
    const double wanted = double(n) * picks / (n + picks); // the more picks, the more of them are of a row made before
    const double many = std::min(std::floor(ROOM / row_bytes), wanted), share = many / wanted;
    const double use = row_bytes / (many * row_bytes <= CACHE ? CACHED : FETCHED);
    const double looking = n / LOOKED_AT, leading = LED + n / GATHERED + changed / RISING;
    const double changing = changed + std::min(looking, leading), products = double(n) * degree;
    const double start = STARTED * double(tokens) * n;
    const double unkept = changed + looking + row_bytes / CACHED; // a row that is made for one pick alone
    const double costs[] = {
        start + picks * changing, start + many * changed + picks * (share * use + (1 - share) * unkept),
        picks_of_tiles * (products / MADE + looking), picks_of_tiles * (products / SHORT + n / NOTED)};
    const int best = int(std::min_element(costs, costs + (may_be_short ? 4 : 3)) - costs);
    const Way way = way_to_update == BEST ? Way(CHANGES + best) : way_to_update;
    anew = way == ANEW;
    led = way == CHANGES && leading < looking;
    screened = way == SCREENED && may_be_short;
    if (way == ROWS) rows = std::min(n, int64_t(ROOM) / row_bytes);
  }
};
