package config

import (
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
)

// LanguageVersion is the version of the rule language this package reads.
const LanguageVersion = 1

var rowhookBlock = &Block{
	Name: "rowhook",
	Doc:  "Settings of the daemon. The block is optional, and every argument has a default.",
	Arguments: []Argument{
		{Name: "language", Type: TypeInteger, Default: "1", Min: 1,
			Doc: "The version of the rule language the files are written in. A version keeps its meaning for ever. There is only 1."},
		{Name: "data_dir", Type: TypeString,
			Doc: "The folder of the event log, of the delivery state and of the socket for commands; it is created with mode 0700. A relative path starts at the folder of the file it stands in. " +
				"The default is rowhook-data beside the configuration: in the folder of the first file, or in the folder that was given. What is in this folder exists nowhere else: put it on a disk that survives the machine."},
		{Name: "listen", Type: TypeString, Default: `"127.0.0.1:8090"`,
			Doc: "Host and port of the API, dashboard, health and metrics. An empty host, as in \":8090\", is every interface of the machine; port 0 is any free port."},
		{Name: "catalog", Type: TypeString,
			Doc: "A catalogue that rowhook check --save-catalog wrote, to stand beside the rules under version control. check, test and types then know the columns without a server, and the daemon says when the live catalogue has drifted from it in a way that touches a rule. A relative path starts at the folder of the file it stands in."},
		{Name: "shutdown_grace", Type: TypeDuration, Default: `"20s"`, Max: 3600,
			Doc: "How long a stop waits for attempts under way. Those still open then are cut, do not count as failed, and are made again after the next start. Keep it below the grace period of what stops rowhook (30s in Kubernetes)."},
	},
	Blocks: []*Block{logBlock},
}

var logBlock = &Block{
	Name: "log",
	Doc:  "How much of the event log is kept.",
	Arguments: []Argument{
		{Name: "retention", Type: TypeDuration, Default: `"168h"`,
			Doc: "How long events stay in the log after all their deliveries are settled, for replay and for people who ask what happened. \"0s\" is without limit of time."},
		{Name: "max_size", Type: TypeSize, Default: `"10GiB"`, Min: 1 << 20,
			Doc: "The size of the log at which on_full applies; settled events are deleted earlier than retention says when that keeps the log below it. \"0\" is without limit of size: the disk is the bound."},
		{Name: "on_full", Type: TypeString, Default: `"stop"`, OneOf: []string{"stop", "expire"},
			Doc: "What happens when undelivered events fill the log. stop: reading the sources pauses until there is room, and PostgreSQL keeps WAL meanwhile. expire: the oldest undelivered events become dead letters without their data."},
	},
}

// Settings are the values of the rowhook block.
type Settings struct {
	Language int
	// DataDir is relative to the working directory, or absolute.
	DataDir string
	// Listen is host:port.
	Listen        string
	ShutdownGrace time.Duration
	Retention     relay.RetentionLimits
	OnFull        OnFull
	// Catalog is the path of the saved catalogue, or "".
	Catalog string
}

// OnFull is what happens when undelivered events fill the log.
type OnFull string

// The policies of a full log.
const (
	OnFullStop   OnFull = "stop"
	OnFullExpire OnFull = "expire"
)

// settings decodes the rowhook block. b is of an empty block when there is
// none. base is the folder of the configuration.
func (e *evaluator) settings(b *body, base string) Settings {
	log := b.blocks["log"]
	s := Settings{
		Language:      get[int](b, "language"),
		DataDir:       filepath.Join(base, "rowhook-data"),
		Listen:        get[settingText](b, "listen").s,
		ShutdownGrace: get[time.Duration](b, "shutdown_grace"),
		Retention:     relay.RetentionLimits{Age: get[time.Duration](log, "retention"), MaxBytes: get[int64](log, "max_size")},
		OnFull:        OnFull(get[settingText](log, "on_full").s),
	}
	if s.Language != LanguageVersion {
		e.errorf(b.where("language"), "Unknown language version", "This rowhook reads language = %d. A newer one may read %d.", LanguageVersion, s.Language)
	}
	if dir := get[settingText](b, "data_dir"); dir.s != "" {
		s.DataDir = beside(b.where("data_dir"), dir.s)
	}
	if file := get[settingText](b, "catalog"); file.s != "" {
		s.Catalog = beside(b.where("catalog"), file.s)
	}
	if l := get[settingText](b, "listen"); !l.unknown {
		host, port, err := net.SplitHostPort(l.s)
		_, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || (host != "" && net.ParseIP(host) == nil && !hostForm.MatchString(host)) {
			hint := ""
			if n, err := strconv.ParseUint(l.s, 10, 16); err == nil && !l.secret {
				hint = ` Write "127.0.0.1:` + strconv.FormatUint(n, 10) + `".`
			}
			e.errorf(l.at, "Invalid address", "listen is host:port, such as \"127.0.0.1:8090\" or \":8090\", not %s.%s", l.show(), hint)
		}
	}
	return s
}

// beside returns a path that starts at the folder of the file it stands in.
func beside(at hcl.Range, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(at.Filename), path)
}
