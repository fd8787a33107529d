// The kernels, written once in GCC/Clang vector extensions; cpu.cpp includes this file once per instruction set.
//
// T is float or double. A *key* is an integer that sorts as its value does, with NaN above everything (as torch.topk
// has it), so that selection is exact integer comparison, never a tolerance.

#if LEVEL == 2
constexpr int VECTOR_BYTES = 64;
#elif LEVEL == 1
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

constexpr int ROW_BYTES = 128; // one row of a transposed tile: 32 float tokens; 2048 rows are 256 KiB, within L2
constexpr int BLOCK = 64;      // latents computed before their candidates are looked at

template <typename T> struct Traits;
template <> struct Traits<float> {
  typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t Key;
};
template <> struct Traits<double> {
  typedef double Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t Key;
};

template <typename T> inline typename Traits<T>::Key key_of(T value) {
  using Key = typename Traits<T>::Key;
  constexpr Key highest = std::numeric_limits<Key>::max();
  if (value != value) return highest;
  Key bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits < 0 ? bits ^ highest : bits;
}

template <typename T> inline T value_of(typename Traits<T>::Key key) {
  using Key = typename Traits<T>::Key;
  constexpr Key highest = std::numeric_limits<Key>::max();
  if (key == highest) return std::numeric_limits<T>::quiet_NaN();
  Key bits = key < 0 ? key ^ highest : key;
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Bit i is set where a[i] <= b[i] does not hold: NaN on either side counts as above.
template <typename T> inline uint32_t above(typename Traits<T>::Vec a, typename Traits<T>::Vec b) {
#if LEVEL == 2
  if constexpr (sizeof(T) == 4) return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ);
  else return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NLE_UQ);
#elif LEVEL == 1
  if constexpr (sizeof(T) == 4) return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NLE_UQ));
  else return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_NLE_UQ));
#else
  uint32_t mask = 0;
  for (int i = 0; i < int(VECTOR_BYTES / sizeof(T)); i++) mask |= uint32_t(!(a[i] <= b[i])) << i;
  return mask;
#endif
}

// The running selection of one token: at most `capacity` candidates, all that can still be among the k largest.
template <typename T> struct Selection {
  using Key = typename Traits<T>::Key;
  Key *keys;
  int32_t *latents;
  Key floor; // what an offer must exceed: no candidate is below it
  int count;

  static int count_above(const Key *keys, int count, Key bound) {
    int above = 0;
    for (int i = 0; i < count; i++) above += keys[i] > bound;
    return above;
  }

  // Keep the k largest and at most `slack` more; raise the floor to match. Ties at the k-th place: the first seen stay.
  void prune(int k, int slack) {
    if (count <= k) return;
    // At least k candidates are above low, fewer than k above high; ties kept by an earlier call equal the floor.
    Key low = floor - (floor != std::numeric_limits<Key>::min()), high = keys[0];
    for (int i = 1; i < count; i++) high = keys[i] > high ? keys[i] : high;
    int ties = 0;
    for (;;) {
      Key middle = (low & high) + ((low ^ high) >> 1);
      if (middle == low) { // adjacent keys: high is the k-th largest itself
        ties = k - count_above(keys, count, high);
        break;
      }
      int many = count_above(keys, count, middle);
      if (many < k) high = middle;
      else {
        low = middle;
        if (many <= k + slack) break;
      }
    }
    Key bound = ties ? high : low;
    int kept = 0;
    for (int i = 0; i < count; i++) {
      Key key = keys[i];
      int32_t latent = latents[i];
      keys[kept] = key;
      latents[kept] = latent;
      bool tie = ties > 0 && key == bound;
      ties -= tie;
      kept += (key > bound) | tie;
    }
    count = kept;
    floor = bound;
  }

  void offer(T value, int32_t latent, int k, int capacity) {
    Key key = key_of<T>(value);
    if (key <= floor) return; // the floor may have risen since the block was compared
    keys[count] = key;
    latents[count] = latent;
    if (++count == capacity) prune(k, k / 4);
  }

  void write(int k, T *codes, int64_t *indices) {
    prune(k, 0);
    for (int i = 0; i < k; i++) {
      codes[i] = value_of<T>(keys[i]);
      indices[i] = latents[i];
    }
  }
};

// Room for the selections of `tokens` tokens, allocated once per thread.
template <typename T> struct Selections {
  using Key = typename Traits<T>::Key;
  int k, capacity;
  std::vector<Key> keys;
  std::vector<int32_t> latents;
  std::vector<Selection<T>> of;

  Selections(int tokens, int64_t n, int k_)
      : k(k_), capacity(int(std::min<int64_t>(n, 4 * int64_t(k_)))), keys(size_t(tokens) * capacity),
        latents(size_t(tokens) * capacity), of(tokens) {}

  // Start over. Only values above `floor` will be kept; NaN keeps all (nothing is "<= NaN").
  void clear(int t, T floor) {
    Key key = floor != floor ? std::numeric_limits<Key>::min() : key_of<T>(floor);
    of[t] = {keys.data() + size_t(t) * capacity, latents.data() + size_t(t) * capacity, key, 0};
  }

  // The value to exceed.
  T floor(int t) const {
    return of[t].floor == std::numeric_limits<Key>::min() ? std::numeric_limits<T>::quiet_NaN()
                                                          : value_of<T>(of[t].floor);
  }
};

// A first floor is guessed from a sample, about its SAMPLE_RANK-th largest value, so that about GUESSED * k of all n
// values lie above it: most of the selection's work would go into the first few hundred values otherwise. A guess that
// leaves fewer than k is found out at the end and that tile done again without one, so it costs time, never a latent.
constexpr int SAMPLE_RANK = 12, GUESSED = 3, MAX_SAMPLE = 1024, GUESS_STEPS = 8;

inline int64_t sample_size(int64_t n, int k) {
  const int64_t size = std::min<int64_t>(MAX_SAMPLE, SAMPLE_RANK * n / (GUESSED * int64_t(k)));
  return size >= 2 * SAMPLE_RANK && 2 * size <= n ? size : 0;
}

// Lane by lane: a value that more than SAMPLE_RANK of the `size` values exceed, by bisection. z has `stride` vectors
// per value.
template <typename T> typename Traits<T>::Vec guess(const typename Traits<T>::Vec *z, int64_t size, int stride) {
  using Vec = typename Traits<T>::Vec;
  Vec low = z[0], high = z[0];
  for (int64_t j = 1; j < size; j++) {
    const Vec value = z[j * stride];
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  for (int step = 0; step < GUESS_STEPS; step++) {
    const Vec middle = low + (high - low) * T(0.5);
    decltype(low < high) many{};
    for (int64_t j = 0; j < size; j++) many -= z[j * stride] > middle;
    const auto more = many > SAMPLE_RANK;
    low = more ? middle : low;
    high = more ? high : middle;
  }
  return low;
}

// Lanes 0.. of a and b alternately: the lower half of both (half = 0) or the upper (half = 1).
template <typename T, int HALF>
typename Traits<T>::Vec interleave(typename Traits<T>::Vec a, typename Traits<T>::Vec b) {
  using Key = typename Traits<T>::Key;
  constexpr int LANES = VECTOR_BYTES / sizeof(T);
  typedef Key Order __attribute__((vector_size(VECTOR_BYTES)));
  Order order;
  for (int i = 0; i < LANES; i++) order[i] = Key((i & 1) * LANES + i / 2 + HALF * LANES / 2);
  return __builtin_shuffle(a, b, order);
}

// tile (d_in, stride) = x (here, d_in) transposed; columns past `here` are 0.
template <typename T> void transpose(const T *x, int here, int64_t d_in, T *tile, int stride) {
  using Vec = typename Traits<T>::Vec;
  typedef Vec Unaligned __attribute__((aligned(sizeof(T)), may_alias));
  constexpr int LANES = VECTOR_BYTES / sizeof(T);
  int t = 0;
  for (; t + LANES <= here; t += LANES) {
    int64_t i = 0;
    for (; i + LANES <= d_in; i += LANES) {
      Vec a[LANES], b[LANES];
      for (int r = 0; r < LANES; r++) a[r] = *reinterpret_cast<const Unaligned *>(x + (t + r) * d_in + i);
      for (int half = LANES; half > 1; half /= 2) { // interleaving rows with those half a block away, log2 times
        for (int r = 0; r < LANES / 2; r++) {
          b[2 * r] = interleave<T, 0>(a[r], a[r + LANES / 2]);
          b[2 * r + 1] = interleave<T, 1>(a[r], a[r + LANES / 2]);
        }
        for (int r = 0; r < LANES; r++) a[r] = b[r];
      }
      for (int r = 0; r < LANES; r++) *reinterpret_cast<Vec *>(tile + (i + r) * stride + t) = a[r];
    }
    for (; i < d_in; i++)
      for (int r = 0; r < LANES; r++) tile[i * stride + t + r] = x[(t + r) * d_in + i];
  }
  for (; t < stride; t++)
    for (int64_t i = 0; i < d_in; i++) tile[i * stride + t] = t < here ? x[t * d_in + i] : T(0);
}

// codes, indices (tokens, k): the k largest of z = W x + bias, W's atoms on `support`. Lanes are tokens: a tile of x is
// transposed, so that a latent's pre-activations for the whole tile are `degree` multiply-adds of contiguous rows.
template <typename T> struct Encoder {
  using Vec = typename Traits<T>::Vec;
  static constexpr int LANES = VECTOR_BYTES / sizeof(T), TILE = ROW_BYTES / sizeof(T), VECS = ROW_BYTES / VECTOR_BYTES;
  int64_t n, degree;
  int k;
  const T *values, *bias;
  const int64_t *support;
  const T *tile; // (d_in, TILE)
  T *z;          // (latents, TILE)
  Selections<T> &best;

  void multiply(int64_t first, int64_t count) {
    for (int64_t j = 0; j < count; j++) {
      const int64_t *rows = support + (first + j) * degree;
      const T *weights = values + (first + j) * degree;
      Vec sum[VECS];
      for (int v = 0; v < VECS; v++) sum[v] = Vec{} + bias[first + j];
      for (int64_t i = 0; i < degree; i++) {
        const Vec *row = reinterpret_cast<const Vec *>(tile + rows[i] * TILE);
        for (int v = 0; v < VECS; v++) sum[v] += row[v] * weights[i];
      }
      for (int v = 0; v < VECS; v++) reinterpret_cast<Vec *>(z + j * TILE)[v] = sum[v];
    }
  }

  void select(int64_t first, int64_t count, uint32_t real) {
    Vec floors[VECS];
    for (int t = 0; t < TILE; t++) reinterpret_cast<T *>(floors)[t] = best.floor(t);
    for (int64_t start = 0; start < count; start += BLOCK) {
      // Which latents have candidates is noted without a branch: a taken one for every third latent would stall.
      uint32_t masks[BLOCK];
      int hits[BLOCK], n_hits = 0;
      for (int j = 0; j < std::min<int64_t>(BLOCK, count - start); j++) {
        uint32_t mask = 0;
        for (int v = 0; v < VECS; v++)
          mask |= above<T>(reinterpret_cast<const Vec *>(z + (start + j) * TILE)[v], floors[v]) << (v * LANES);
        masks[j] = mask & real;
        hits[n_hits] = j;
        n_hits += masks[j] != 0;
      }
      for (int i = 0; i < n_hits; i++) {
        const int64_t j = start + hits[i];
        uint32_t left = masks[hits[i]];
        do {
          const int t = __builtin_ctz(left);
          best.of[t].offer(z[j * TILE + t], int32_t(first + j), k, best.capacity);
          left &= left - 1;
        } while (left);
      }
    }
  }

  void run(int here) {
    const uint32_t real = here == 32 ? ~0u : (1u << here) - 1;
    const int64_t sample = sample_size(n, k);
    Vec floors[VECS];
    for (int v = 0; v < VECS; v++) floors[v] = Vec{} + std::numeric_limits<T>::quiet_NaN();
    if (sample) {
      multiply(0, sample);
      for (int v = 0; v < VECS; v++) floors[v] = guess<T>(reinterpret_cast<const Vec *>(z) + v, sample, VECS);
    }
    for (int t = 0; t < TILE; t++) best.clear(t, reinterpret_cast<const T *>(floors)[t]);
    select(0, sample, real);
    rest(sample, real);
    uint32_t failed = 0;
    for (int t = 0; t < here; t++) failed |= uint32_t(best.of[t].count < k) << t;
    if (!failed) return;
    for (int t = 0; t < here; t++)
      if (failed >> t & 1) best.clear(t, std::numeric_limits<T>::quiet_NaN());
    rest(0, failed);
  }

  void rest(int64_t from, uint32_t real) {
    for (int64_t first = from; first < n; first += BLOCK) {
      const int64_t count = std::min<int64_t>(BLOCK, n - first);
      multiply(first, count);
      select(first, count, real);
    }
  }
};

template <typename T>
void encode_topk(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, const T *x, const T *values,
                 const int64_t *support, const T *bias, T *codes, int64_t *indices, int64_t threads) {
  constexpr int TILE = Encoder<T>::TILE;
  const int64_t tiles = (tokens + TILE - 1) / TILE;
#pragma omp parallel num_threads(threads)
  {
    std::vector<T> room(size_t(d_in) * TILE + 64), z(std::max<int64_t>(BLOCK, sample_size(n, int(k))) * TILE + 64);
    Selections<T> best(TILE, n, int(k));
    T *tile = align<T>(room.data());
    Encoder<T> encoder{n, degree, int(k), values, bias, support, tile, align<T>(z.data()), best};
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < tiles; b++) {
      const int64_t first = b * TILE;
      const int here = int(std::min<int64_t>(TILE, tokens - first));
      transpose<T>(x + first * d_in, here, d_in, tile, TILE);
      encoder.run(here);
      for (int t = 0; t < here; t++) best.of[t].write(best.k, codes + (first + t) * k, indices + (first + t) * k);
    }
  }
}

// codes, indices (rows, k): the k largest of each row of z (rows, n).
template <typename T>
void topk(int64_t rows, int64_t n, int64_t k, const T *z, T *codes, int64_t *indices, int64_t threads) {
  using Vec = typename Traits<T>::Vec;
  typedef Vec Unaligned __attribute__((aligned(sizeof(T)), may_alias));
  constexpr int LANES = VECTOR_BYTES / sizeof(T);
#pragma omp parallel num_threads(threads)
  {
    Selections<T> best(1, n, int(k));
#pragma omp for schedule(dynamic, 8)
    for (int64_t r = 0; r < rows; r++) {
      const T *row = z + r * n;
      best.clear(0, std::numeric_limits<T>::quiet_NaN());
      Selection<T> &mine = best.of[0];
      T threshold = best.floor(0);
      int64_t j = 0;
      for (; j + LANES <= n; j += LANES) {
        uint32_t left = above<T>(*reinterpret_cast<const Unaligned *>(row + j), Vec{} + threshold);
        if (!left) continue;
        for (; left; left &= left - 1) {
          const int64_t at = j + __builtin_ctz(left);
          mine.offer(row[at], int32_t(at), best.k, best.capacity);
        }
        threshold = best.floor(0);
      }
      for (; j < n; j++) mine.offer(row[j], int32_t(j), best.k, best.capacity);
      mine.write(best.k, codes + r * k, indices + r * k);
    }
  }
}

template <typename T> T dot(const T *a, const T *b, int64_t count) {
  using Vec = typename Traits<T>::Vec;
  typedef Vec Unaligned __attribute__((aligned(sizeof(T)), may_alias));
  constexpr int LANES = VECTOR_BYTES / sizeof(T);
  Vec sums{};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    sums += *reinterpret_cast<const Unaligned *>(a + i) * *reinterpret_cast<const Unaligned *>(b + i);
  T sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
  for (; i < count; i++) sum += a[i] * b[i];
  return sum;
}

// In the sums below atoms are dense where `support` is null: degree = d_in, and rows are read in order.

// sum += weight * atom.
template <typename T> inline void add_atom(T *sum, T weight, const T *values, const int64_t *support, int64_t degree) {
  if (support)
    for (int64_t i = 0; i < degree; i++) sum[support[i]] += weight * values[i];
  else
    for (int64_t i = 0; i < degree; i++) sum[i] += weight * values[i];
}

// out (tokens, d_in) = start, or 0 where it is null, + sum over the k picks of weight * atom. Returns how many picks
// are not in 0..n-1; those are left out.
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
      add_atom(sum, weights[t * k + j], values + latent * degree, support ? support + latent * degree : nullptr,
               degree);
    }
  }
  return wrong;
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
      T sum = 0;
      if (support)
        for (int64_t i = first; i < first + degree; i++) sum += row[support[i]] * values[i];
      else sum = dot(row, values + first, degree);
      out[t * k + j] = sum;
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

// The same for dense atoms, out (n, d_in). An atom's row is too long to come back to: picks are sorted by atom (by
// counting, so that an atom's tokens stay in order), and each row is summed in one go.
template <typename T>
void dense_atom_gradient(int64_t tokens, int64_t d_in, int64_t n, int64_t k, const T *weights, const int64_t *indices,
                         const T *y, T *out, int64_t threads) {
  std::vector<int64_t> end(size_t(n) + 1, 0), pick(size_t(tokens) * k);
  for (int64_t p = 0; p < tokens * k; p++) end[indices[p] + 1]++;
  for (int64_t j = 0; j < n; j++) end[j + 1] += end[j];
  for (int64_t p = 0; p < tokens * k; p++) pick[end[indices[p]]++] = p; // end[j] moves from atom j's start to its end
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
  for (int64_t j = 0; j < n; j++) {
    T *sum = out + j * d_in;
    std::memset(sum, 0, size_t(d_in) * sizeof(T));
    for (int64_t p = j ? end[j - 1] : 0; p < end[j]; p++)
      add_atom<T>(sum, weights[pick[p]], y + pick[p] / k * d_in, nullptr, d_in);
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

// out = (grad - unit * <grad, unit>) * inverse, by rows.
template <typename T>
void unit_norm_gradient(int64_t n, int64_t degree, const T *grad, const T *unit, const T *inverse, T *out,
                        int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t j = 0; j < n; j++) {
    const T *g = grad + j * degree, *y = unit + j * degree;
    const T along = dot(g, y, degree);
    for (int64_t i = 0; i < degree; i++) out[j * degree + i] = (g[i] - y[i] * along) * inverse[j];
  }
}
