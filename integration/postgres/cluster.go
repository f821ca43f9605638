// Package postgres runs throw-away PostgreSQL clusters for tests, the benchmark and the
// quickstart.
//
// A cluster lives in a folder of its own, listens on a loopback port of its own, and is a direct
// child of the program that started it: it ends with that program, however that ends, and no other
// cluster on the machine is looked at or touched. Tests need not ask whether a server is there: a
// machine without binaries is an error, never a skip.
//
// PostgreSQL refuses to run as root, so a program that is root runs it as nobody, in a folder that
// belongs to nobody.
package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// nobody is the uid and gid that the server has when the caller is root.
const nobody = 65534

// startTimeout bounds initdb, start-up with crash recovery, and a clean stop.
const startTimeout = 60 * time.Second

// Options says how a cluster is made. The zero value is a good one for tests.
type Options struct {
	// Dir holds everything of the cluster; empty makes one under the system's temporary folder,
	// which Close removes. A root caller's Dir must be reachable for other users.
	Dir string

	// Binaries are the server programs; nil takes Find("").
	Binaries *Binaries

	// Settings are added to postgresql.conf, and win over the package's own.
	Settings map[string]string

	// FSync leaves fsync on. Off (the default), a crash of the machine may cost the cluster, a
	// crash of the server does not; the benchmark measures with it on.
	FSync bool

	// Password of the superuser, asked for with scram-sha-256. Empty: everyone on loopback is let in.
	Password string
}

// Cluster is a PostgreSQL server, running or stopped, with its data.
type Cluster struct {
	Dir  string // data, log and socket are in here
	Port int    // on 127.0.0.1, the same over restarts

	bin       *Binaries
	password  string
	removeDir bool
	options   Options

	mu   sync.Mutex
	proc *process // nil when stopped
}

// process is one life of the postmaster.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it is reaped
	err    error         // of Wait; read after exited
}

// StopMode says how a server is asked to stop.
type StopMode syscall.Signal

// The shutdown modes of PostgreSQL's documentation.
const (
	Smart     = StopMode(syscall.SIGTERM) // wait until every client has left by itself
	Fast      = StopMode(syscall.SIGINT)  // disconnect everyone, checkpoint, leave
	Immediate = StopMode(syscall.SIGQUIT) // leave at once; the next start recovers
)

// Start makes a new cluster and runs it. It returns when the server takes connections.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	bin := o.Binaries
	if bin == nil {
		if bin, err = Find(""); err != nil {
			return nil, err
		}
	}
	c := &Cluster{Dir: o.Dir, password: o.Password, options: o}
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "rowhook-pg-"); err != nil {
			return nil, err
		}
		c.removeDir = true
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := handOver(c.Dir); err != nil {
		return nil, err
	}
	if c.bin, err = reachable(bin, c.Dir); err != nil {
		return nil, err
	}
	if err := c.initdb(ctx); err != nil {
		return nil, err
	}
	// The port is free when it is chosen, and may be taken when the server asks for it.
	for try := 0; ; try++ {
		if c.Port, err = freePort(); err != nil {
			return nil, err
		}
		if err = c.configure(o); err != nil {
			return nil, err
		}
		err = c.Run(ctx)
		if err == nil || try == 5 || !strings.Contains(err.Error(), "Address already in use") {
			return c, err
		}
	}
}

// handOver gives dir to nobody when the caller is root, and checks that nobody can get there.
func handOver(dir string) error {
	if os.Getuid() != 0 {
		return nil
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		return err
	}
	return othersCanReach(filepath.Dir(dir))
}

// othersCanReach says which folder on the way to dir keeps other users out, if one does.
func othersCanReach(dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("root runs PostgreSQL as nobody (uid %d), who cannot pass %s (mode %s)", nobody, dir, info.Mode().Perm())
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// reachable returns binaries that the server's user can run: the given ones, or, when they are in
// a folder that only root can enter (a checkout in root's home), a copy within dir.
func reachable(bin *Binaries, dir string) (*Binaries, error) {
	if os.Getuid() != 0 || othersCanReach(bin.Dir) == nil {
		return bin, nil
	}
	tree := filepath.Dir(bin.Dir) // bin, lib, share
	if bin.libraryPath != "" {    // PREFIX of PREFIX/usr/lib/postgresql/N/bin
		tree = filepath.Join(bin.Dir, "..", "..", "..", "..", "..")
	}
	to := filepath.Join(dir, "software")
	if out, err := exec.Command("cp", "-a", tree, to).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy %s: %w: %s", tree, err, out)
	}
	if err := os.Chmod(to, 0o755); err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(tree, bin.Dir)
	if err != nil {
		return nil, err
	}
	return open(filepath.Join(to, rel))
}

func (c *Cluster) data() string { return filepath.Join(c.Dir, "data") }
func (c *Cluster) log() string  { return filepath.Join(c.Dir, "log") }

// attributes makes a child die with this program and, for root, run as nobody. The kernel sends
// the signal when the *thread* that started the child ends; see runProcess.
func attributes(death syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: death, Setpgid: true}
	if os.Getuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return attr
}

func (c *Cluster) initdb(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	args := []string{"-D", c.data(), "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync"}
	if c.password == "" {
		args = append(args, "-A", "trust")
	} else {
		pw := filepath.Join(c.Dir, "pw")
		if err := os.WriteFile(pw, []byte(c.password+"\n"), 0o644); err != nil {
			return err
		}
		defer os.Remove(pw)
		args = append(args, "-A", "scram-sha-256", "--pwfile", pw)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin.Dir, "initdb"), args...)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = c.bin.env(), c.Dir, attributes(syscall.SIGKILL)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := runProcess(cmd)
	if err == nil {
		<-p.exited
		err = p.err
	}
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, tail(out.Bytes()))
	}
	return nil
}

// configure writes postgresql.conf. The settings go into the file, not on the command line, so
// that ALTER SYSTEM can change them.
func (c *Cluster) configure(o Options) error {
	onOff := map[bool]string{true: "on", false: "off"}
	set := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(c.Port),
		"unix_socket_directories": c.Dir,
		"wal_level":               "logical",
		"max_replication_slots":   "20",
		"max_wal_senders":         "20",
		"max_connections":         "100",
		"fsync":                   onOff[o.FSync],
		"full_page_writes":        onOff[o.FSync],
		"log_line_prefix":         "%m [%p] %q%a ",
		"log_min_messages":        "warning",
		"timezone":                "GMT", // the one zone that needs no tzdata on the machine
	}
	if len(c.Dir) > 80 { // a socket's path has 107 bytes at most
		set["unix_socket_directories"] = ""
	}
	for name, value := range o.Settings {
		set[name] = value
	}
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	sort.Strings(names)
	var conf strings.Builder
	for _, name := range names {
		fmt.Fprintf(&conf, "%s = '%s'\n", name, strings.ReplaceAll(set[name], "'", "''"))
	}
	// initdb's own file holds nothing else that matters: the defaults, and the locale, which is C.
	return os.WriteFile(filepath.Join(c.data(), "postgresql.conf"), []byte(conf.String()), 0o644)
}

// Run starts a cluster that is stopped. It returns when the server takes connections, crash
// recovery included.
func (c *Cluster) Run(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc != nil {
		return errors.New("start postgres: it is running")
	}
	log, err := os.OpenFile(c.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	from, err := log.Seek(0, 2)
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(c.bin.Dir, "postgres"), "-D", c.data())
	cmd.Env, cmd.Dir, cmd.SysProcAttr = c.bin.env(), c.Dir, attributes(syscall.SIGQUIT)
	cmd.Stdout, cmd.Stderr = log, log // files, not pipes: every backend inherits them
	p, err := runProcess(cmd)
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	c.proc = p
	if err := c.waitReady(ctx, p); err != nil {
		_ = syscall.Kill(p.cmd.Process.Pid, syscall.SIGQUIT)
		<-p.exited
		c.proc = nil
		return fmt.Errorf("start postgres: %w\n%s", err, c.logTail(from))
	}
	return nil
}

// runProcess starts cmd on a thread that lives as long as the child does: Pdeathsig fires at the
// end of the parent's thread, and Go ends threads when it likes.
func runProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
		close(p.exited)
	}()
	return p, <-started
}

func (c *Cluster) waitReady(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, c.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-p.exited:
			return fmt.Errorf("it exited: %w", p.err)
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w (%w)", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// URL is the connection string of a database, for the superuser.
func (c *Cluster) URL(db string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User("postgres"),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port)), Path: "/" + db, RawQuery: "sslmode=disable",
	}
	if c.password != "" {
		u.User = url.UserPassword("postgres", c.password)
	}
	return u.String()
}

// Major is the server's major version.
func (c *Cluster) Major() int { return c.bin.Major }

// PID of the postmaster; 0 when it is stopped.
func (c *Cluster) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil {
		return 0
	}
	return c.proc.cmd.Process.Pid
}

// Conn connects to a database, in UTF-8 whatever its encoding is. The caller closes the connection.
func (c *Cluster) Conn(ctx context.Context, db string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, c.URL(db)+"&client_encoding=UTF8")
}

// Exec runs statements in a database, over a connection of its own, in the simple protocol: sql
// may hold several.
func (c *Cluster) Exec(ctx context.Context, db, sql string) error {
	conn, err := c.Conn(ctx, db)
	if err != nil {
		return err
	}
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	return errors.Join(err, conn.Close(ctx))
}

// CreateDatabase makes an empty database. The options are SQL, such as ENCODING 'LATIN1'.
func (c *Cluster) CreateDatabase(ctx context.Context, name string, options ...string) error {
	return c.Exec(ctx, "postgres", "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" "+strings.Join(options, " "))
}

// Stop ends the server and waits until it is gone. One that does not go in a minute (a fast
// shutdown waits for walsenders) is killed, and that is an error.
func (c *Cluster) Stop(mode StopMode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil {
		return nil
	}
	p := c.proc
	c.proc = nil
	if err := syscall.Kill(p.cmd.Process.Pid, syscall.Signal(mode)); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop postgres: %w", err)
	}
	late := time.NewTimer(startTimeout)
	defer late.Stop()
	select {
	case <-p.exited:
		return nil
	case <-late.C:
		kill9(p)
		return fmt.Errorf("stop postgres: still there after %s, killed", startTimeout)
	}
}

// Kill9 ends the postmaster and all its children with SIGKILL, as a lost machine would, and waits
// until they are gone, so that Run finds the data folder free.
func (c *Cluster) Kill9() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc != nil {
		kill9(c.proc)
		c.proc = nil
	}
}

// kill9 stops the postmaster first: a stopped process neither forks nor reaps, so the list of
// children is whole when it is read and its pids are still theirs when they are killed.
func kill9(p *process) {
	pid := p.cmd.Process.Pid
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	deadline := time.Now().Add(startTimeout)
	for !stopped(pid) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond) // the signal is sent, not yet obeyed
	}
	children := childrenOf(pid)
	for _, child := range children {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	<-p.exited
	for _, child := range children {
		for alive(child) && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond) // not our child any more: there is nothing to wait on
		}
	}
}

// Restart stops the server in the given mode and runs it again.
func (c *Cluster) Restart(ctx context.Context, mode StopMode) error {
	if err := c.Stop(mode); err != nil {
		return err
	}
	return c.Run(ctx)
}

// Close stops the server and removes its folder, if Start made that. What is in the cluster is lost.
func (c *Cluster) Close() {
	c.Kill9()
	if c.removeDir {
		_ = os.RemoveAll(c.Dir)
	}
}

// LogTail is the end of the server's log.
func (c *Cluster) LogTail() string { return c.logTail(0) }

func (c *Cluster) logTail(from int64) string {
	text, err := os.ReadFile(c.log())
	if err != nil {
		return err.Error()
	}
	return tail(text[min(from, int64(len(text))):])
}

func tail(text []byte) string {
	const most = 4096
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return string(bytes.TrimSpace(text))
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

func childrenOf(pid int) []int {
	var children []int
	for _, file := range glob("/proc/[0-9]*/stat") {
		if ppid, _ := stat(file); ppid == pid {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			children = append(children, child)
		}
	}
	return children
}

func alive(pid int) bool {
	_, state := stat(fmt.Sprintf("/proc/%d/stat", pid))
	return state != "" && state != "Z"
}

// stopped reports that a process does nothing any more: it is stopped or gone.
func stopped(pid int) bool {
	_, state := stat(fmt.Sprintf("/proc/%d/stat", pid))
	return state == "T" || state == "" || state == "Z"
}

// stat reads the parent and the state out of a /proc/PID/stat, "pid (name) state ppid ...".
func stat(file string) (ppid int, state string) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, ""
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return 0, ""
	}
	ppid, _ = strconv.Atoi(fields[1])
	return ppid, fields[0]
}
