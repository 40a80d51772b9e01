// chrF against sacrebleu 2.6.0, CHRF() with its defaults, corpus_score; its values are written here.
#include "collegium/infer/chrf.h"

#include <doctest/doctest.h>

using collegium::infer::chrf;

TEST_CASE("chrF is sacrebleu's") {
  CHECK(chrf({{"Lieu de naissance", "Lieu de naissance"}}) == doctest::Approx(100));
  CHECK(chrf({{"Lieu du mariage", "Lieu de naissance"},
              {"Die Datei wurde geöffnet.", "Die Datei konnte nicht geöffnet werden."}}) ==
        doctest::Approx(36.352552995819906).epsilon(1e-9));
  CHECK(chrf({{"ab", "abc"}}) == doctest::Approx(63.636363636363626).epsilon(1e-9));
  CHECK(chrf({{"", "ja"}, {"gut", "gut so"}}) == doctest::Approx(44.13892908827785).epsilon(1e-9));
  CHECK(chrf({{"Ошибка: файл не найден", "Файл не найден"}}) == doctest::Approx(77.51935070025225).epsilon(1e-9));
  CHECK(chrf({{"a a a a", "a"}}) == doctest::Approx(62.5).epsilon(1e-9));
  CHECK(chrf({{"a b", "a\u00a0b"}}) == doctest::Approx(100));
}

TEST_CASE("chrF of nothing, and of nothing in common, is 0") {
  CHECK(chrf({}) == 0);
  CHECK(chrf({{"", ""}}) == 0);
  CHECK(chrf({{"", "abc"}}) == 0);
  CHECK(chrf({{"xyz", "abc"}}) == 0);
}
