package config

import (
	"encoding/base64"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
)

// sinkName is the second label of every sink type.
var sinkName = Label{Name: "name", Doc: "The name is a-z, 0-9 and _, at most 55 of them, unique among the sinks of all types. It is the identity of the endpoint: a renamed sink is a new one, and the deliveries of the old name are held."}

// sinkArguments are what every sink type has.
var sinkArguments = []Argument{
	{Name: "events", Type: TypeStrings, Required: true,
		Doc: "The types of the events it gets: * is one segment, ** any number of segments, @2 at the end one version, ! in front excludes. [\"**\"] is every event. Operational events only come to patterns that begin with rowhook."},
	{Name: "order", Type: TypeString, Default: `"key"`, OneOf: []string{string(relay.OrderKey), string(relay.OrderStrict), string(relay.OrderNone)},
		Doc: "key: events of one key in order, keys beside each other. strict: one event at a time. none: as fast as it goes."},
	{Name: "on_failure", Type: TypeString, Default: `"block_key"`, OneOf: []string{string(relay.BlockKey), string(relay.BlockEndpoint), string(relay.Park)},
		Doc: "What a failed delivery holds up until it is delivered or dead. block_key: the later events of its key. block_endpoint: everything. park: nothing; order is given up for it."},
	{Name: "from", Type: TypeString, Default: `"now"`, OneOf: []string{"now", "earliest"},
		Doc: "Where a new sink begins: with the events after it was first started, or with the earliest in the log."},
	{Name: "max_in_flight", Type: TypeInteger, Default: "64", Min: 1, Max: 10_000,
		Doc: "The number of deliveries under way at once."},
}

var webhookBlock = &Block{
	Name:   "sink",
	Many:   true,
	Labels: []Label{{Name: "type", OneOf: []string{"webhook"}, Doc: "The types are \"webhook\" and \"stdout\"."}, sinkName},
	Doc:    "A receiver of events by HTTP, signed as Standard Webhooks 1.0 has it.",
	Arguments: slices.Concat([]Argument{
		{Name: "url", Type: TypeSecret, Required: true,
			Doc: "Where to POST: an http:// or https:// URL without user and password. Redirects are not followed. What comes from env() or file() is printed as its host only; the query is never printed."},
		{Name: "secrets", Type: TypeSecrets,
			Doc: "The signing secrets, whsec_ and 24 to 64 bytes in base64. Every one signs, so that a receiver can change over from an old secret to a new one. Required, unless unsigned = true."},
		{Name: "unsigned", Type: TypeBool, Default: "false",
			Doc: "Send without a signature. A receiver cannot tell such a request from a forged one."},
		{Name: "format", Type: TypeString, Default: `"standard"`, OneOf: []string{"standard"},
			Doc: "The form of the request. standard is Standard Webhooks 1.0."},
		{Name: "timeout", Type: TypeDuration, Default: `"15s"`, Min: 0.001, Max: 600,
			Doc: "The deadline of one attempt, from name resolution to the last byte read of the answer."},
		{Name: "headers", Type: TypeSecretMap,
			Doc: "Further headers of the request, such as { authorization = env(\"TOKEN\") }. Those that HTTP and the signature need cannot be set. The values are secret."},
		{Name: "allow_private", Type: TypeBool, Default: "true",
			Doc: "Whether the receiver may have a private address. It is true for sinks in files, whose author is trusted with the network rowhook runs in."},
	}, sinkArguments),
	Blocks: []*Block{retryBlock},
}

var stdoutBlock = &Block{
	Name:      "sink",
	Many:      true,
	Labels:    []Label{{Name: "type", OneOf: []string{"stdout"}, Doc: "The types are \"webhook\" and \"stdout\"."}, sinkName},
	Doc:       "Writes each event to standard output as a line of JSON, to look at or to pipe.",
	Arguments: sinkArguments,
	Blocks:    []*Block{retryBlock},
}

var retryBlock = &Block{
	Name: "retry",
	Doc:  "When a failed delivery is tried again. A Retry-After of the receiver is honoured.",
	Arguments: []Argument{
		{Name: "max_attempts", Type: TypeInteger, Default: "10", Min: 1, Max: 1000,
			Doc: "The number of attempts, the first one included, after which a delivery is a dead letter."},
		{Name: "initial", Type: TypeDuration, Default: `"5s"`, Min: 0.001, Max: 86400,
			Doc: "The delay after the first failure."},
		{Name: "max", Type: TypeDuration, Default: `"24h"`, Min: 0.001, Max: 30 * 86400,
			Doc: "The longest delay."},
		{Name: "multiplier", Type: TypeNumber, Default: "5", Min: 1, Max: 100,
			Doc: "Each delay is this many times the one before. With the defaults ten attempts take some three days."},
		{Name: "jitter", Type: TypeNumber, Default: "0.2", Max: 1,
			Doc: "The fraction by which each delay is spread either way, so that what failed together does not come again together. 0 is none."},
	},
}

// Sink is a sink block. The daemon makes the relay.Sink of it.
type Sink struct {
	// Endpoint has everything but Sink. Its ID is the name of the block and its
	// Kind the type.
	Endpoint relay.Endpoint
	// Webhook is nil for other kinds.
	Webhook *Webhook
	// Range is the block's header.
	Range hcl.Range
}

// Webhook is what a webhook sink has of its own.
type Webhook struct {
	// URL is zero when a check without secrets did not get it; so are entries of
	// Secrets and values of Headers.
	URL relay.Secret
	// Secrets sign every request, in this order. Empty is unsigned.
	Secrets []relay.Secret
	Format  string // "standard"
	// Timeout is the deadline of one attempt.
	Timeout time.Duration
	Headers []Header
	// AllowPrivate says that the receiver may have a private address.
	AllowPrivate bool
}

// Header is a header of a request. Its name is in canonical form.
type Header struct {
	Name  string
	Value relay.Secret
}

func (e *evaluator) sink(b *body) Sink {
	e.name(b, b.labels[1])
	retry := b.blocks["retry"]
	s := Sink{Range: b.at, Endpoint: relay.Endpoint{
		ID:           b.labels[1].s,
		Kind:         b.def.Labels[0].OneOf[0],
		Target:       b.def.Labels[0].OneOf[0],
		Events:       e.patterns(get[[]settingText](b, "events")),
		FromEarliest: get[settingText](b, "from").s == "earliest",
		Order:        relay.Order(get[settingText](b, "order").s),
		OnFailure:    relay.OnFailure(get[settingText](b, "on_failure").s),
		MaxInFlight:  get[int](b, "max_in_flight"),
		Retry: relay.RetryPolicy{
			MaxAttempts: get[int](retry, "max_attempts"),
			Initial:     get[time.Duration](retry, "initial"),
			Max:         get[time.Duration](retry, "max"),
			Multiplier:  get[float64](retry, "multiplier"),
			Jitter:      get[float64](retry, "jitter"),
		},
	}}
	if s.Endpoint.Retry.Jitter == 0 {
		s.Endpoint.Retry.Jitter = -1 // RetryPolicy reads 0 as its default
	}
	if r := s.Endpoint.Retry; r.Initial > r.Max {
		arg := "initial"
		if retry.arg("max") != nil {
			arg = "max"
		}
		e.errorf(retry.where(arg), "Delays contradict each other", "The first delay, initial = \"%s\", is longer than the longest one, max = \"%s\".", shortDuration(r.Initial.Seconds()), shortDuration(r.Max.Seconds()))
	}
	if b.def == webhookBlock {
		s.Webhook = e.webhook(b, &s.Endpoint)
	}
	return s
}

func (e *evaluator) webhook(b *body, ep *relay.Endpoint) *Webhook {
	w := &Webhook{
		Format:       get[settingText](b, "format").s,
		Timeout:      get[time.Duration](b, "timeout"),
		AllowPrivate: get[bool](b, "allow_private"),
	}
	if t := get[settingText](b, "url"); t.s != "" {
		w.URL = relay.NewSecret(t.s)
		ep.Target = e.receiverURL(t)
	}
	for _, t := range get[[]settingText](b, "secrets") {
		e.signingSecret(t)
		w.Secrets = append(w.Secrets, relay.NewSecret(t.s))
	}
	unsigned := get[bool](b, "unsigned")
	switch {
	case unsigned && b.arg("secrets") != nil:
		e.errorf(b.arg("unsigned").name, "Both signed and unsigned", "The sink has secrets, and says unsigned = true. Remove one of the two.")
	case !unsigned && b.arg("secrets") == nil:
		e.errorf(b.at, "Missing argument", "A webhook is signed: secrets = [env(\"NAME\")], where the variable holds whsec_ and 32 random bytes in base64. To send without a signature, write unsigned = true.")
	}
	for _, h := range get[[]pair](b, "headers") {
		if name, ok := e.header(h, w.Headers); ok {
			w.Headers = append(w.Headers, Header{name, relay.NewSecret(h.val.s)})
		}
	}
	return w
}

// patterns parses event patterns one by one, so that each mistake has its place.
func (e *evaluator) patterns(texts []settingText) relay.Patterns {
	var all []string
	ok, wanted := true, false
	for _, t := range texts {
		body, excludes := strings.CutPrefix(t.s, "!")
		wanted = wanted || !excludes || t.unknown
		if t.unknown {
			ok = false
			continue
		}
		if _, err := relay.ParsePatterns([]string{body}); err != nil {
			ok = false
			if t.secret {
				e.errorf(t.at, "Invalid event pattern", "The value that env() or file() gave is no pattern, such as \"order.*\".")
			} else {
				e.errorf(t.at, "Invalid event pattern", "%s.", upperFirst(err.Error()))
			}
		}
		all = append(all, t.s)
	}
	if len(texts) > 0 && !wanted {
		e.errorf(texts[0].at, "Invalid event pattern", "Every pattern excludes, so the sink gets nothing. Begin with what it wants: [\"**\", %s].", list(quoteAll(all), ","))
		return relay.Patterns{}
	}
	if !ok || len(texts) == 0 {
		return relay.Patterns{}
	}
	p, err := relay.ParsePatterns(all)
	if err != nil {
		e.errorf(texts[0].at, "Invalid event pattern", "%s.", upperFirst(err.Error()))
	}
	return p
}

// unmatched warns of patterns that choose no event of any rule.
func unmatched(p *problems, events []settingText, rules []*rule) {
	for _, t := range events {
		body := strings.TrimPrefix(t.s, "!")
		pat, err := relay.ParsePatterns([]string{body})
		if err != nil || t.secret || body == "rowhook" || strings.HasPrefix(body, "rowhook.") {
			continue
		}
		if slices.ContainsFunc(rules, func(r *rule) bool { return pat.Match(r.Type, r.Version) }) {
			continue
		}
		var types []string
		for _, r := range rules {
			types = append(types, r.Type)
		}
		p.warnf(t.at, "Pattern matches no event", "No rule makes an event that %s matches.%s", t.show(), didYouMean(body, types))
	}
}

// receiverURL reports what is wrong with the URL of a webhook, and returns
// what people may see of it.
func (e *evaluator) receiverURL(t settingText) string {
	const summary = "Invalid webhook URL"
	u, err := url.Parse(t.s)
	switch {
	case err != nil:
		e.errorf(t.at, summary, "The form is https://host/path. Spaces and control characters are written percent-encoded.")
		return ""
	case u.Scheme != "http" && u.Scheme != "https":
		hint := ""
		if !t.secret && u.Scheme == "" && !strings.Contains(t.s, "?") {
			hint = ` Write "https://` + strings.TrimLeft(t.s, "/") + `".`
		}
		e.errorf(t.at, summary, "A webhook is sent to an http:// or https:// URL.%s", hint)
		return ""
	case u.Hostname() == "":
		e.errorf(t.at, summary, "The URL names no host. The form is https://host/path.")
		return ""
	case u.User != nil:
		e.errorf(t.at, summary, "User and password in a URL are not sent. Write headers = { authorization = env(\"NAME\") }, where the variable holds Basic and the two in base64.")
	case u.Fragment != "":
		e.errorf(t.at, summary, "What follows # is not sent to a server. Remove it.")
	}
	target := u.Scheme + "://" + u.Host
	if !t.secret {
		target += u.EscapedPath()
	}
	return target
}

// signingSecret reports a secret that Standard Webhooks does not allow.
func (e *evaluator) signingSecret(t settingText) {
	if t.unknown || t.s == "" {
		return
	}
	const remedy = "Make one with: echo whsec_$(openssl rand -base64 32)"
	body, prefixed := strings.CutPrefix(t.s, "whsec_")
	key, err := base64.StdEncoding.DecodeString(body)
	switch {
	case !prefixed:
		e.errorf(t.at, "Invalid signing secret", "A signing secret is whsec_ and 24 to 64 bytes in base64. %s", remedy)
	case err != nil:
		e.errorf(t.at, "Invalid signing secret", "What follows whsec_ is not base64. %s", remedy)
	case len(key) < 24 || len(key) > 64:
		e.errorf(t.at, "Invalid signing secret", "What follows whsec_ is %d bytes; 24 to 64 are allowed. %s", len(key), remedy)
	case !t.secret:
		e.warnf(t.at, "Secret written into the file", "Whoever reads this file can sign events. Write env(\"NAME\") or file(\"path\").")
	}
}

// ownHeaders are set by HTTP or by the signature.
var ownHeaders = []string{"Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Host", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

const tokenChars = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// header reports a header that cannot be sent, and returns its canonical name.
func (e *evaluator) header(h pair, before []Header) (string, bool) {
	const summary = "Invalid header"
	name := textproto.CanonicalMIMEHeaderKey(h.key.s)
	switch {
	case h.key.secret:
		e.errorf(h.key.at, summary, "The name of a header is written out; only its value may come from env() or file().")
	case name == "" || strings.Trim(name, tokenChars) != "":
		e.errorf(h.key.at, summary, "The name of a header is letters, digits and dashes.")
	case slices.Contains(ownHeaders, name) || strings.HasPrefix(name, "Webhook-"):
		e.errorf(h.key.at, summary, "The header %s is set by rowhook and cannot be set here.", strings.ToLower(name))
	case slices.ContainsFunc(before, func(b Header) bool { return b.Name == name }):
		e.errorf(h.key.at, summary, "The header %s is already set. Names of headers do not differ by case.", strings.ToLower(name))
	case strings.ContainsFunc(h.val.s, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }):
		e.errorf(h.val.at, summary, "The value has a line break or another control character, which no header may have.")
	default:
		return name, true
	}
	return "", false
}
