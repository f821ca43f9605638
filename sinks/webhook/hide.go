package webhook

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/rowhook/rowhook/relay"
)

// leastHidden is the length of a text from which on it may be a secret: "true"
// is none.
const leastHidden = 6

// hide returns what takes the secrets of a request out of a text: receivers
// answer with the request that they got, above all when they fail. The path of a
// URL is often a password too.
func hide(t *target, headers map[string]relay.Secret) *strings.Replacer {
	path, query, _ := strings.Cut(t.path, "?")
	texts := []string{t.path, path, query, strings.TrimPrefix(t.authorization, "Basic ")}
	if plain, err := url.PathUnescape(path); err == nil {
		texts = append(texts, plain)
	}
	if values, err := url.ParseQuery(query); err == nil {
		for _, v := range values {
			texts = append(texts, v...)
		}
	}
	for _, v := range headers {
		texts = append(texts, strings.TrimSpace(v.Reveal()))
	}
	// Of several that begin alike the first one counts.
	slices.SortFunc(texts, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	var pairs []string
	for _, text := range texts {
		if len(text) >= leastHidden {
			pairs = append(pairs, text, "[hidden]")
		}
	}
	return strings.NewReplacer(pairs...)
}
