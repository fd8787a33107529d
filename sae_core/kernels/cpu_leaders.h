// The largest of a token's correlations, as picks change single ones of them.

// Of z (n,), padded to whole blocks by NaN, the largest value (size) in each of 64 columns. Before that, z -= code *
// row where there is a row (n,). Maxima by column need no sum across a vector.
template <typename T> struct Columns {
  using L = Lanes<T>;
  using Vec = typename L::Vec;
  using Unaligned = typename L::Unaligned;
  static constexpr int COUNT = 64, LANES = L::LANES, VECS = COUNT / LANES;
  static constexpr uint32_t ALL_LANES = uint32_t((uint64_t(1) << LANES) - 1);
  static constexpr T NONE = -std::numeric_limits<T>::infinity();
  const T *z;
  int64_t n;
  bool magnitude;
  Vec top[VECS];

  static int64_t padded(int64_t n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

  Columns(T *z_, int64_t n_, bool magnitude_, const T *row, T code) : z(z_), n(n_), magnitude(magnitude_) {
    for (int v = 0; v < VECS; v++) top[v] = Vec{} + NONE;
    const auto look = [&](int v, Vec value) { top[v] = larger<T>(magnitude ? size_of<T>(value) : value, top[v]); };
    const int64_t whole = row ? n / COUNT * COUNT : 0; // columns that vectors of the row fill
    for (int64_t i = 0; i < whole; i += COUNT)
      for (int v = 0; v < VECS; v++) {
        Vec &value = reinterpret_cast<Vec *>(z_ + i)[v];
        value -= code * reinterpret_cast<const Unaligned *>(row + i)[v];
        look(v, value);
      }
    if (row)
      for (int64_t i = whole; i < n; i++) z_[i] -= code * row[i];
    for (int64_t i = whole; i < padded(n); i += COUNT)
      for (int v = 0; v < VECS; v++) look(v, reinterpret_cast<const Vec *>(z + i)[v]);
  }

  T highest() const {
    Vec most = top[0];
    for (int v = 1; v < VECS; v++) most = larger<T>(top[v], most);
    T found = most[0];
    for (int l = 1; l < LANES; l++) found = most[l] > found ? most[l] : found;
    return found;
  }

  // The mean of the maxima, which about half of the columns exceed; of those that have one.
  T mean() const {
    Vec sum{}, many{};
    for (int v = 0; v < VECS; v++) {
      const auto any = top[v] > NONE;
      sum += any ? top[v] : Vec{};
      many += any ? Vec{} + 1 : Vec{};
    }
    for (int l = 1; l < LANES; l++) sum[0] += sum[l], many[0] += many[l];
    return sum[0] / many[0];
  }

  // The latent of the largest; -1 where all of z is NaN or -inf. Of equals, the first in the first column that has one.
  int64_t best() const {
    const T most = highest();
    int column = 0;
    for (int v = 0; v < VECS; v++)
      if (const uint32_t having = ~above<T>(Vec{} + most, top[v]) & ALL_LANES) {
        column = v * LANES + __builtin_ctz(having);
        break;
      }
    for (int64_t i = column; i < padded(n); i += COUNT)
      if ((magnitude ? std::fabs(z[i]) : z[i]) == most) return i;
    return -1;
  }
};

// The latents of which one has the largest of z (n,), or of its size: all those whose z is at least `least`, so that
// few values are looked at for each pick. Whoever changes values of z shows them to `watch()`: a latent that rises
// joins. One that falls is dropped when it is next passed. When none is left, all of z is looked at again.
template <typename T, typename Index> struct Leaders {
  using Key = typename Traits<T>::Key;
  using Vec = typename Lanes<T>::Vec;
  static constexpr int LANES = Lanes<T>::LANES, TOGETHER = 4;
  typedef T Values __attribute__((vector_size(TOGETHER * sizeof(T))));
  typedef Key Keys __attribute__((vector_size(TOGETHER * sizeof(T))));

  int64_t n;
  bool magnitude;
  std::vector<Index> latents; // the first `count`; some may be there twice
  int64_t count = 0;
  bool complete = false; // no latent whose z is at least `least` is missing
  T least = 0;

  Leaders(int64_t n_, bool magnitude_) : n(n_), magnitude(magnitude_), latents(size_t(n_ + TOGETHER)) {}

  T size(T value) const { return magnitude ? std::fabs(value) : value; }

  static bool any(const Keys &keys) {
#ifdef __SSE2__
    if constexpr (sizeof(T) == 4) return _mm_movemask_ps((__m128)keys);
#endif
    Key all = 0;
    for (int i = 0; i < TOGETHER; i++) all |= keys[i];
    return all;
  }

  // Is called with TOGETHER values of z that changed, and whose they are. Holds `least` itself, as the compiler cannot
  // tell that writes to z leave that of Leaders alone.
  struct Watch {
    Leaders *leaders;
    T least;
    Key sign; // the bits of a value that count
    void operator()(const Index *whose, const T *values) const {
      const Values all{values[0], values[1], values[2], values[3]}; // not read from memory at once: just written singly
      const Keys leads = (Keys)((Values)((Keys)all & sign) >= least);
      if (__builtin_expect(any(leads), 0)) leaders->add(whose, leads);
    }
  };
  Watch watch() { return {this, least, magnitude ? std::numeric_limits<Key>::max() : Key(-1)}; }

  void add(const Index *whose, const Keys &leads) {
    complete &= count + TOGETHER <= int64_t(latents.size());
    if (complete)
      for (int i = 0; i < TOGETHER; i++) latents[size_t(count)] = whose[i], count += leads[i] != 0;
  }

  // The latent of the largest of z, the first of equals; -1 where all of it is NaN or -inf. z (padded,) as in Columns.
  int64_t best(T *z) {
    const int64_t found = complete ? pass(z) : -1;
    if (found >= 0) return found;
    gather(z);
    return pass(z);
  }

  // Drops the leaders whose values fell, or are NaN; returns the best, -1 where none is left.
  int64_t pass(const T *z) {
    T highest = -std::numeric_limits<T>::infinity();
    int64_t found = -1, kept = 0;
    for (int64_t i = 0; i < count; i++) {
      const Index latent = latents[size_t(i)];
      const T value = size(z[latent]);
      latents[size_t(kept)] = latent;
      kept += value >= least;
      if (value > highest || (value == highest && latent < found)) highest = value, found = latent;
    }
    count = kept;
    return kept ? found : -1;
  }

  // Makes leaders of all whose z is at least the mean of the columns' maxima.
  void gather(T *z) {
    const Columns<T> columns(z, n, magnitude, nullptr, 0);
    count = 0;
    complete = true;
    const T highest = columns.highest();
    if (!(highest > Columns<T>::NONE)) return;
    least = std::min(columns.mean(), highest); // a mean may be rounded up
    const Vec below = Vec{} + std::nextafter(least, Columns<T>::NONE);
    for (int64_t i = 0; i < n; i += LANES) {
      const Vec values = *reinterpret_cast<const Vec *>(z + i);
      for (uint32_t near = above<T>(magnitude ? size_of<T>(values) : values, below); near; near &= near - 1) {
        const int64_t latent = i + __builtin_ctz(near);
        if (size(z[latent]) >= least) latents[size_t(count++)] = Index(latent); // not where it is NaN
      }
    }
  }
};
