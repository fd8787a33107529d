// Matching pursuit of sparse float atoms by correlations of 16 bits: for each pick all of them are made anew, several
// times as many at once as floats, and those that their error leaves among the largest are made again in float. So the
// picks are those of the largest float correlations.

#if LEVEL
inline int rounded(float value) { return _mm_cvtss_si32(_mm_set_ss(value)); } // std::lrint, without a call

// Vectors of 16-bit integers.
struct Shorts {
  static constexpr int LANES = VECTOR_BYTES / 2;
#if LEVEL == 2
  using Vec = __m512i;
  static Vec all(int value) { return _mm512_set1_epi16(int16_t(value)); }
  static Vec both(const int32_t &pair) { return _mm512_set1_epi32(pair); }
  static Vec product(Vec a, Vec b) { return _mm512_mulhrs_epi16(a, b); } // a * b / 2^15, rounded
  static Vec sum(Vec a, Vec b) { return _mm512_add_epi16(a, b); }
  static Vec size(Vec a) { return _mm512_abs_epi16(a); }
  static Vec larger(Vec a, Vec b) { return _mm512_max_epi16(a, b); }
  static Vec where_larger(Vec a, Vec b, Vec yes, Vec no) {
    return _mm512_mask_mov_epi16(no, _mm512_cmpgt_epi16_mask(a, b), yes);
  }
  static uint32_t at_least(Vec a, Vec b) { return _mm512_cmpge_epi16_mask(a, b); }
#else
  using Vec = __m256i;
  static Vec all(int value) { return _mm256_set1_epi16(int16_t(value)); }
  static Vec both(const int32_t &pair) { return _mm256_set1_epi32(pair); }
  static Vec product(Vec a, Vec b) { return _mm256_mulhrs_epi16(a, b); }
  static Vec sum(Vec a, Vec b) { return _mm256_add_epi16(a, b); }
  static Vec size(Vec a) { return _mm256_abs_epi16(a); }
  static Vec larger(Vec a, Vec b) { return _mm256_max_epi16(a, b); }
  static Vec where_larger(Vec a, Vec b, Vec yes, Vec no) {
    return _mm256_blendv_epi8(no, yes, _mm256_cmpgt_epi16(a, b));
  }
  static uint32_t at_least(Vec a, Vec b) {
    return ~_pext_u32(uint32_t(_mm256_movemask_epi8(_mm256_cmpgt_epi16(b, a))), 0x55555555) & 0xffff;
  }
#endif
};

// Sparse atoms whose values are 16-bit integers, and how far that puts a correlation off.
template <typename Index> struct ShortAtoms {
  // The place of a row in a tile, in bytes, and the value there, twice. One load each, in the loop that all time goes
  // to.
  struct Entry {
    uint32_t row;
    int32_t value;
  };
  static constexpr int GROUP = 4;                         // atoms whose largest correlation is noted
  static constexpr int64_t MOST = int64_t(GROUP) * 32767; // groups are counted in 16 bits
  static constexpr float LONGEST = 1.2f, WORST = 8192;    // an atom's norm; the error of a correlation of integers
  std::vector<Entry> entries;     // (groups, degree, GROUP): the atoms of a group side by side, missing ones 0
  float longest = 0, largest = 0; // an atom's norm; a value's size
  float error = 0; // how much a correlation of integers may be off, and so may a sum of some of its products
  float whole = 0; // what no such correlation, or sum, exceeds by more than its error

  // Leaves `entries` empty where residuals or sums could grow beyond 16 bits: where an atom is longer than about unit
  // norm or uses a row twice, or where the error would be large.
  explicit ShortAtoms(const Atoms<float, Index> &atoms) {
    bool fit = atoms.n <= MOST;
    for (int64_t j = 0; j < atoms.n && fit; j++) {
      const float *values = atoms.values + j * atoms.degree;
      float energy = 0;
      for (int64_t i = 0; i < atoms.degree; i++) {
        energy += values[i] * values[i];
        largest = std::max(largest, std::fabs(values[i]));
        fit &= i == 0 || atoms.support[j * atoms.degree + i] != atoms.support[j * atoms.degree + i - 1];
      }
      fit &= energy <= LONGEST * LONGEST; // not with NaN
      longest = std::max(longest, std::sqrt(energy));
    }
    if (!fit || !(largest > 0)) return;
    // Each product is rounded (1/2), and so are the residual's values (1/2 each, times those of an atom) and the atom's
    // (the other way round). The rest is for products of two such errors, and for float's own.
    const float root = std::sqrt(float(atoms.degree)), ratio = longest / largest;
    error = .51f * float(atoms.degree) + .5f * root * (ratio + 1 / ratio) + 2;
    if (error > WORST) return;
    whole = 32767 - error;
    entries.resize(size_t((atoms.n + GROUP - 1) / GROUP * GROUP * atoms.degree), Entry{0, 0});
    for (int64_t j = 0; j < atoms.n; j++) {
      Entry *mine = entries.data() + j / GROUP * GROUP * atoms.degree + j % GROUP;
      for (int64_t i = j * atoms.degree; i < (j + 1) * atoms.degree; i++, mine += GROUP) {
        const uint32_t value = uint16_t(int16_t(rounded(atoms.values[i] / largest * 32767)));
        *mine = {uint32_t(atoms.support[i]) * ROW_BYTES, int32_t(value << 16 | value)};
      }
    }
  }

  // What a residual of norm `norm` is multiplied by before it is rounded.
  float scale(float norm) const { return whole * largest / (longest * norm); }
  // What its correlations are multiplied by then.
  float gain(float norm) const { return scale(norm) / largest * (32767.f / 32768.f); }
};

template <typename Index> struct ScreenedPursuit {
  using S = Shorts;
  using Short = ShortAtoms<Index>;
  static constexpr int TOKENS = ROW_BYTES / 2, TILE = Lanes<float>::TILE, GROUP = Short::GROUP;
  static constexpr float REQUANTISED = 0.25f; // of a residual's energy: its integers are made anew when it is less
  Atoms<float, Index> atoms;
  const Short &shorts;
  int k;
  bool magnitude, refit;
  const float *x;
  float *codes;
  int64_t *indices;

  int64_t groups() const { return (atoms.n + GROUP - 1) / GROUP; }

  // most (groups, TOKENS): the largest correlation (its size) in each group; `top` and `where` (TOKENS,): the largest
  // of all, and its group. Of the first V vectors of tokens.
  template <int V, bool MAGNITUDE>
  void correlate(const int16_t *tile, int16_t *most, int16_t *top, int16_t *where) const {
    using Vec = S::Vec;
    const auto *entry = shorts.entries.data();
    const char *rows = reinterpret_cast<const char *>(tile);
    Vec highest[V], at[V];
    for (int v = 0; v < V; v++) highest[v] = S::all(-32768), at[v] = S::all(0);
    for (int64_t g = 0; g < groups(); g++) {
      Vec sum[GROUP][V];
      for (int j = 0; j < GROUP; j++)
        for (int v = 0; v < V; v++) sum[j][v] = S::all(0);
      for (int64_t i = 0; i < atoms.degree; i++, entry += GROUP)
        for (int j = 0; j < GROUP; j++) {
          const Vec *row = reinterpret_cast<const Vec *>(rows + entry[j].row), value = S::both(entry[j].value);
          for (int v = 0; v < V; v++) sum[j][v] = S::sum(sum[j][v], S::product(row[v], value));
        }
      Vec best[V];
      for (int v = 0; v < V; v++) best[v] = MAGNITUDE ? S::size(sum[0][v]) : sum[0][v];
      for (int j = 1; j < GROUP; j++)
        for (int v = 0; v < V; v++) best[v] = S::larger(best[v], MAGNITUDE ? S::size(sum[j][v]) : sum[j][v]);
      for (int v = 0; v < V; v++) {
        at[v] = S::where_larger(best[v], highest[v], S::all(int(g)), at[v]);
        highest[v] = S::larger(best[v], highest[v]);
        reinterpret_cast<Vec *>(most + g * TOKENS)[v] = best[v];
      }
    }
    for (int v = 0; v < V; v++) reinterpret_cast<Vec *>(top)[v] = highest[v], reinterpret_cast<Vec *>(where)[v] = at[v];
  }

  void correlate(int vecs, const int16_t *tile, int16_t *most, int16_t *top, int16_t *where) const {
    constexpr int ALL = TOKENS / S::LANES;
    if (vecs <= ALL / 2)
      magnitude ? correlate<ALL / 2, true>(tile, most, top, where) : correlate<ALL / 2, false>(tile, most, top, where);
    else magnitude ? correlate<ALL, true>(tile, most, top, where) : correlate<ALL, false>(tile, most, top, where);
  }

  // A tile of tokens: two tiles of least squares.
  struct Tile {
    LeastSquares<float, Index> fit[2];
    std::vector<int16_t> room;
    int16_t *x, *most, *top, *where;  // (d_in, TOKENS), (groups, TOKENS), (TOKENS,), (TOKENS,)
    float norm[TOKENS], gain[TOKENS]; // of the residual when its integers were last made; of its correlations
    float energy[TOKENS];             // of the residual: each pick takes its code's square
    float highest[TOKENS];            // the largest correlation in float so far, signed
    int64_t latent[TOKENS];           // whose that is; -1: nobody's

    uint64_t going() const { return uint64_t(fit[1].active) << TILE | fit[0].active; } // a bit for each token
    bool goes_on(int t) const { return going() >> t & 1; }
    void stop(int t) { fit[t / TILE].active &= ~(uint32_t(1) << t % TILE); }
  };

  // The integers of a token's residual, whole.
  void quantise(Tile &tile, int t) const {
    auto &fit = tile.fit[t / TILE];
    const float *r = fit.left(t % TILE);
    tile.energy[t] = dot(r, r, atoms.d_in);
    tile.norm[t] = std::sqrt(tile.energy[t]);
    const float scale = shorts.scale(tile.norm[t]);
    tile.gain[t] = shorts.gain(tile.norm[t]);
    for (int64_t i = 0; i < atoms.d_in; i++) tile.x[i * TOKENS + t] = int16_t(rounded(r[i] * scale));
  }

  float size(float correlation) const { return magnitude ? std::fabs(correlation) : correlation; }

  // The largest correlation in a group, in float, among the atoms that the token has not picked.
  void look(Tile &tile, int t, int64_t group) const {
    auto &fit = tile.fit[t / TILE];
    const int mine = t % TILE;
    const float *r = fit.left(mine);
    const int64_t first = group * GROUP, here = std::min<int64_t>(GROUP, atoms.n - first);
    float products[GROUP] = {}; // side by side: one sum alone would wait for itself
    const auto *support = atoms.support + first * atoms.degree;
    const float *values = atoms.values + first * atoms.degree;
    if (here == GROUP)
      for (int64_t i = 0; i < atoms.degree; i++)
        for (int j = 0; j < GROUP; j++) products[j] += values[j * atoms.degree + i] * r[support[j * atoms.degree + i]];
    else
      for (int j = 0; j < here; j++) products[j] = atoms.product(first + j, r);
    for (int j = 0; j < here; j++) {
      const float c = products[j], best = size(tile.highest[t]);
      if (tile.latent[t] >= 0 && !(size(c) > best || (size(c) == best && first + j < tile.latent[t]))) continue;
      const int64_t *picks = fit.picks + mine * k, *end = picks + fit.count[mine];
      if (std::find(picks, end, first + j) == end) tile.highest[t] = c, tile.latent[t] = first + j;
    }
  }

  // For each token that goes on, the latent of the largest correlation: that of its best group by integers, unless one
  // of those groups that come near has a larger one.
  void find(Tile &tile, int vecs) const {
    using Vec = S::Vec;
    correlate(vecs, tile.x, tile.most, tile.top, tile.where);
    alignas(64) int16_t least[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
      least[t] = 32767; // nothing has that
      tile.latent[t] = -1;
      if (!tile.goes_on(t)) continue;
      look(tile, t, tile.where[t]);
      const float best = size(tile.highest[t]) * tile.gain[t];
      const float enough = tile.latent[t] < 0 ? -32768.f : std::floor(best - shorts.error);
      least[t] = int16_t(std::max(enough, -32768.f));
    }
    const uint64_t going = tile.going();
    const int many = int(groups());
    for (int g = 0; g < many; g++) {
      const Vec *most = reinterpret_cast<const Vec *>(tile.most + int64_t(g) * TOKENS);
      uint64_t near = 0;
      for (int v = 0; v < TOKENS / S::LANES; v++)
        near |= uint64_t(S::at_least(most[v], reinterpret_cast<const Vec *>(least)[v])) << (v * S::LANES);
      for (near &= going; near; near &= near - 1) {
        const int t = __builtin_ctzll(near);
        if (tile.where[t] != g) look(tile, t, g);
      }
    }
  }

  // Take each token's pick from its residual; a token without any that matters is active no more.
  void pick(Tile &tile, int t, int s) const {
    auto &fit = tile.fit[t / TILE];
    const int mine = t % TILE;
    const float whole = fit.norm[mine] * fit.norm[mine], code = tile.highest[t];
    const int64_t latent = tile.latent[t];
    if (latent < 0 || !fit.matters(mine, code)) return tile.stop(t);
    fit.take(mine, latent);
    fit.codes[s * TILE + mine] = code;
    float *r = fit.left(mine);
    atoms.add(latent, -code, r);
    tile.energy[t] -= code * code;
    if (tile.energy[t] > REQUANTISED * tile.norm[t] * tile.norm[t]) {
      const float scale = shorts.scale(tile.norm[t]);
      for (int64_t e = latent * atoms.degree; e < (latent + 1) * atoms.degree; e++)
        tile.x[atoms.support[e] * TOKENS + t] = int16_t(rounded(r[atoms.support[e]] * scale));
    } else quantise(tile, t);
    if (!(tile.energy[t] > float(SURELY_LEFT) * whole) && !fit.has_left(mine)) tile.stop(t);
  }

  void run(int64_t tokens, int64_t threads) const {
    const int together = tokens > TOKENS / 2 * threads ? TOKENS : TOKENS / 2;
#pragma omp parallel num_threads(threads)
    {
      Tile tile{{{atoms, k}, {atoms, k}}, std::vector<int16_t>(size_t(atoms.d_in + groups() + 2) * TOKENS + 64)};
      tile.x = align<int16_t>(tile.room.data());
      tile.most = tile.x + atoms.d_in * TOKENS;
      tile.top = tile.most + groups() * TOKENS;
      tile.where = tile.top + TOKENS;
      if (refit)
        for (auto &fit : tile.fit) fit.will_make_products();
#pragma omp for schedule(dynamic)
      for (int64_t first = 0; first < tokens; first += together) {
        const int here = int(std::min<int64_t>(together, tokens - first));
        const int vecs = (here + S::LANES - 1) / S::LANES;
        for (int half = 0; half < 2; half++)
          tile.fit[half].start(x + (first + half * TILE) * atoms.d_in, std::min(std::max(here - half * TILE, 0), TILE),
                               indices + (first + half * TILE) * k);
        for (int t = 0; t < here; t++)
          if (tile.goes_on(t)) {
            if (tile.fit[t / TILE].has_left(t % TILE)) quantise(tile, t);
            else tile.stop(t);
          }
        for (int s = 0; s < k && tile.going(); s++) {
          find(tile, vecs);
          for (int t = 0; t < here; t++)
            if (tile.goes_on(t)) pick(tile, t, s);
        }
        for (int half = 0; half * TILE < here; half++) {
          if (refit) tile.fit[half].refit();
          tile.fit[half].write(std::min(here - half * TILE, TILE), codes + (first + half * TILE) * k);
        }
      }
    }
  }
};
#endif
