// Encode + TopK on sparse atoms, fused, and TopK alone for the rows of a dense product.

constexpr int ROW_BYTES = 128; // one row of a transposed tile: 32 float tokens; 2048 rows are 256 KiB, within L2
constexpr int BLOCK = 64;      // latents computed before their candidates are looked at

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

// tile (d_in, stride) = x (here, d_in) transposed; the columns from `here` to `width` are 0.
template <typename T>
__attribute__((noinline, noclone)) void transpose(const T *x, int here, int64_t d_in, T *tile, int64_t stride,
                                                  int width) {
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
  for (; t < width; t++)
    for (int64_t i = 0; i < d_in; i++) tile[i * stride + t] = t < here ? x[t * d_in + i] : T(0);
}

// The shape of a tile: lanes are tokens, in rows of ROW_BYTES.
template <typename T> struct Lanes {
  using Vec = typename Traits<T>::Vec;
  typedef Vec Unaligned __attribute__((aligned(sizeof(T)), may_alias));
  static constexpr int LANES = VECTOR_BYTES / sizeof(T), TILE = ROW_BYTES / sizeof(T), VECS = ROW_BYTES / VECTOR_BYTES;
};

// What must not be picked: pairs of a latent and a token of the tile, by block of latents.
template <typename T> struct Excluded {
  struct Pair {
    int64_t latent;
    int token;
  };
  std::vector<std::vector<Pair>> blocks;

  explicit Excluded(int64_t n) : blocks(size_t(n / BLOCK + 1)) {}
  void clear() {
    for (auto &block : blocks) block.clear();
  }
  void add(int64_t latent, int token) { blocks[size_t(latent / BLOCK)].push_back({latent, token}); }

  // z (count, TILE) = -inf at every pair within first..first+count-1.
  void mark(int64_t first, int64_t count, T *z) const {
    for (int64_t b = first / BLOCK; b <= (first + count - 1) / BLOCK; b++)
      for (const Pair &pair : blocks[size_t(b)])
        if (pair.latent >= first && pair.latent < first + count)
          z[(pair.latent - first) * Lanes<T>::TILE + pair.token] = -std::numeric_limits<T>::infinity();
  }
};

// The k largest of z = W x + bias, W's atoms on `support`, for each token of a tile. A tile of x is transposed, so that
// a latent's pre-activations for the whole tile are `degree` multiply-adds of contiguous rows. A pursuit has no bias,
// may take |z|, and excludes what it has picked.
template <typename T, typename Index> struct Encoder : Lanes<T> {
  using typename Lanes<T>::Vec;
  using Lanes<T>::LANES, Lanes<T>::TILE, Lanes<T>::VECS;
  int64_t n, degree;
  const T *values, *bias; // bias null: none
  const Index *support;   // null: dense atoms
  const T *tile;          // (d_in, TILE)
  T *z;                   // (latents, TILE)
  Selections<T> &best;
  bool magnitude = false;
  const Excluded<T> *excluded = nullptr;

  Encoder(int64_t n_, int64_t degree_, const T *values_, const T *bias_, const Index *support_, const T *tile_, T *z_,
          Selections<T> &best_)
      : n(n_), degree(degree_), values(values_), bias(bias_), support(support_), tile(tile_), z(z_), best(best_) {}

  // z (COUNT, TILE) of the latents from `first` on; several share each row of the tile that they load.
  template <int COUNT> void multiply_dense(int64_t first, T *out) {
    Vec sum[COUNT][VECS];
    for (int j = 0; j < COUNT; j++)
      for (int v = 0; v < VECS; v++) sum[j][v] = Vec{} + (bias ? bias[first + j] : T(0));
    for (int64_t i = 0; i < degree; i++) {
      const Vec *row = reinterpret_cast<const Vec *>(tile + i * TILE);
      for (int j = 0; j < COUNT; j++)
        for (int v = 0; v < VECS; v++) sum[j][v] += row[v] * values[(first + j) * degree + i];
    }
    for (int j = 0; j < COUNT; j++)
      for (int v = 0; v < VECS; v++) reinterpret_cast<Vec *>(out + j * TILE)[v] = sum[j][v];
  }

  void multiply_sparse(int64_t latent, T *out) {
    const Index *rows = support + latent * degree;
    const T *weights = values + latent * degree;
    Vec sum[VECS];
    for (int v = 0; v < VECS; v++) sum[v] = Vec{} + (bias ? bias[latent] : T(0));
    for (int64_t i = 0; i < degree; i++) {
      const Vec *row = reinterpret_cast<const Vec *>(tile + rows[i] * TILE);
      for (int v = 0; v < VECS; v++) sum[v] += row[v] * weights[i];
    }
    for (int v = 0; v < VECS; v++) reinterpret_cast<Vec *>(out)[v] = sum[v];
  }

  void multiply(int64_t first, int64_t count) {
    constexpr int TOGETHER = std::max(1, 8 / VECS);
    int64_t j = 0;
    if (!support)
      for (; j + TOGETHER <= count; j += TOGETHER) multiply_dense<TOGETHER>(first + j, z + j * TILE);
    for (; j < count; j++) {
      if (support) multiply_sparse(first + j, z + j * TILE);
      else multiply_dense<1>(first + j, z + j * TILE);
    }
    if (magnitude)
      for (int64_t i = 0; i < count * VECS; i++) {
        Vec &value = reinterpret_cast<Vec *>(z)[i];
        value = size_of<T>(value);
      }
    if (excluded) excluded->mark(first, count, z);
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
          best.of[t].offer(z[j * TILE + t], int32_t(first + j), best.k, best.capacity);
          left &= left - 1;
        } while (left);
      }
    }
  }

  // Of the tokens in `real`, a bit each.
  void run(uint32_t real) {
    const int64_t sample = sample_size(n, best.k);
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
    for (int t = 0; t < TILE; t++) failed |= uint32_t(best.of[t].count < best.k) << t;
    failed &= real;
    if (!failed) return;
    for (int t = 0; t < TILE; t++)
      if (failed >> t & 1) best.clear(t, std::numeric_limits<T>::quiet_NaN());
    rest(0, failed);
  }

  // The largest z of each token and its latent, the first of equals; -1 where nothing is above -inf. For k = 1.
  void argmax(int64_t *latents, T *largest) {
    typedef typename Traits<T>::Key Keys __attribute__((vector_size(VECTOR_BYTES)));
    Vec top[VECS];
    Keys at[VECS];
    for (int v = 0; v < VECS; v++) top[v] = Vec{} - std::numeric_limits<T>::infinity(), at[v] = Keys{} - 1;
    for (int64_t first = 0; first < n; first += BLOCK) {
      const int64_t count = std::min<int64_t>(BLOCK, n - first);
      multiply(first, count);
      for (int64_t j = 0; j < count; j++)
        for (int v = 0; v < VECS; v++) {
          const Vec value = reinterpret_cast<const Vec *>(z + j * TILE)[v];
          const auto better = value > top[v];
          top[v] = better ? value : top[v];
          at[v] = better ? Keys{} + typename Traits<T>::Key(first + j) : at[v];
        }
    }
    for (int t = 0; t < TILE; t++) latents[t] = at[t / LANES][t % LANES], largest[t] = top[t / LANES][t % LANES];
  }

  void rest(int64_t from, uint32_t real) {
    for (int64_t first = from; first < n; first += BLOCK) {
      const int64_t count = std::min<int64_t>(BLOCK, n - first);
      multiply(first, count);
      select(first, count, real);
    }
  }
};

inline uint32_t first_bits(int count) { return count == 32 ? ~0u : (1u << count) - 1; }

// The support in as few bits as it takes: every tile reads the whole of it, and as int64 it would be most of what comes
// from memory. `wrong` is how many rows are not in 0..d_in-1.
template <typename Index> struct Compact {
  std::vector<Index> rows;
  int64_t wrong = 0;

  Compact(const int64_t *support, int64_t count, int64_t d_in, int64_t threads) : rows(support ? size_t(count) : 0) {
    int64_t bad = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : bad)
    for (int64_t i = 0; i < int64_t(rows.size()); i++) {
      rows[size_t(i)] = Index(support[i]);
      bad += support[i] < 0 || support[i] >= d_in;
    }
    wrong = bad;
  }
  const Index *data() const { return rows.empty() ? nullptr : rows.data(); }
};

// Returns how many rows of the support are not in 0..d_in-1; where there are any, nothing else is done.
template <typename T, typename Index>
int64_t encode_tiles(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int k, const T *x, const T *values,
                     const int64_t *support, const T *bias, T *codes, int64_t *indices, int64_t threads) {
  using E = Encoder<T, Index>;
  constexpr int TILE = E::TILE;
  const int64_t tiles = (tokens + TILE - 1) / TILE;
  const Compact<Index> compact(support, n * degree, d_in, threads);
  if (compact.wrong) return compact.wrong;
#pragma omp parallel num_threads(threads)
  {
    std::vector<T> room(size_t(d_in) * TILE + 64), z(std::max<int64_t>(BLOCK, sample_size(n, k)) * TILE + 64);
    Selections<T> best(TILE, n, k);
    T *tile = align<T>(room.data());
    E encoder(n, degree, values, bias, compact.data(), tile, align<T>(z.data()), best);
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < tiles; b++) {
      const int64_t first = b * TILE;
      const int here = int(std::min<int64_t>(TILE, tokens - first));
      transpose<T>(x + first * d_in, here, d_in, tile, TILE, TILE);
      encoder.run(first_bits(here));
      for (int t = 0; t < here; t++) best.of[t].write(k, codes + (first + t) * k, indices + (first + t) * k);
    }
  }
  return 0;
}

template <typename T>
int64_t encode_topk(int64_t tokens, int64_t d_in, int64_t n, int64_t degree, int64_t k, const T *x, const T *values,
                    const int64_t *support, const T *bias, T *codes, int64_t *indices, int64_t threads) {
  const auto encode = d_in <= (1 << 16) ? encode_tiles<T, uint16_t> : encode_tiles<T, uint32_t>;
  return encode(tokens, d_in, n, degree, int(k), x, values, support, bias, codes, indices, threads);
}

// A value below at least k of the row's n: the row is cut into k groups or a few more, each has a largest value, and
// this is less than the least of those. NaN where the groups would be small.
template <typename T> T below_k(const T *row, int64_t n, int k) {
  using Vec = typename Traits<T>::Vec;
  typedef Vec Unaligned __attribute__((aligned(sizeof(T)), may_alias));
  constexpr int LANES = VECTOR_BYTES / sizeof(T), SMALL = 8;
  const int64_t parts = (k + LANES - 1) / LANES, vectors = n / LANES / parts; // a group is one lane of a part
  if (vectors < SMALL) return std::numeric_limits<T>::quiet_NaN();
  Vec least = Vec{} + std::numeric_limits<T>::infinity();
  for (int64_t part = 0; part < parts; part++) {
    Vec most = Vec{} - std::numeric_limits<T>::infinity();
    for (int64_t v = part * vectors; v < (part + 1) * vectors; v++)
      most = larger<T>(*reinterpret_cast<const Unaligned *>(row + v * LANES), most);
    least = most < least ? most : least;
  }
  T found = least[0];
  for (int lane = 1; lane < LANES; lane++) found = std::min(found, T(least[lane]));
  return found > -std::numeric_limits<T>::max() ? std::nextafter(found, -std::numeric_limits<T>::infinity())
                                                : std::numeric_limits<T>::quiet_NaN();
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
      best.clear(0, below_k(row, n, int(k)));
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
