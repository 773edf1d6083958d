--- Installing this moonrise on other hosts, by ssh alone: its tree goes as one tar archive. And on
--- this one, where agents of other hosts look for it, too.
---
--- Without root's rights it cannot replace /usr/local/bin/moonrise. So it goes to the user's
--- ~/.local/lib/moonrise, where agents of this version are looked for first (ssh.h, ssh_moonrise):
---
---     VERSION-SUM/bin/moonrise, VERSION-SUM/share/moonrise/{scripts,policies}
---     VERSION -> VERSION-SUM
---
--- VERSION-SUM is complete, on disk and has been run before it gets its name there; then one rename
--- makes VERSION lead to it. The build before stays, for what still runs from it.
local agents = require("lib.agents")
local mr = require("moonrise")

local M = {}

local CONNECT_MS = 20000
local SEND_MS = 10 * 60000
local ASK_MS = 30000

--- Where moonrise goes, for people.
M.place = "~/.local/lib/moonrise/" .. mr.version

local PACKAGES = {
    ["libpq.so.5"] = "libpq5", ["libssh.so.4"] = "libssh-4", ["libuv.so.1"] = "libuv1",
    ["libjansson.so.4"] = "libjansson4", ["libluajit-5.1.so.2"] = "libluajit-5.1-2",
    ["libxxhash.so.0"] = "libxxhash0", ["liblz4.so.1"] = "liblz4-1", ["libzstd.so.1"] = "libzstd1",
    ["libcrypto.so.3"] = "libssl3", ["libz.so.1"] = "zlib1g",
}

-- $0 is the version, $1 the sum. One line each: a login shell there may be csh.
local ASK = [[
cd "$HOME/.local/lib/moonrise" 2>/dev/null && readlink "$0" || echo none
]]

local INSTALL = [=[
set -eu;
root=$HOME/.local/lib/moonrise; build=$0-$1;
umask 022; mkdir -p "$root"; cd "$root";
was=$(readlink "$0" || echo none);
new=$(mktemp -d -p .); trap 'cd "$root" && rm -rf "$new"' EXIT;
cat >"$new/tar";
sum=$(sha256sum "$new/tar"); sum=${sum%% *};
[ "$sum" = "$2" ] || { echo "failed the archive arrived damaged"; exit 0; };
mkdir -m 755 "$new/tree"; tar -x --no-same-owner -f "$new/tar" -C "$new/tree";
program=$new/tree/bin/moonrise;
missing=$(ldd "$program" 2>&1 | sed -n "s/^[[:space:]]*\([^ ]*\) => not found.*/\1/p");
[ -z "$missing" ] || { echo missing $missing; exit 0; };
said=$("$program" --version 2>&1) || { echo failed "$said"; exit 0; };
[ "$said" = "moonrise $0" ] || { echo "failed it says: $said"; exit 0; };
sync -f "$new";
[ -e "$build" ] || mv -T "$new/tree" "$build";
ln -s "$build" "$new/link"; mv -T "$new/link" "$0"; sync -f "$root";
for old in "$0"-*; do
    [ "$old" = "$build" ] || [ "$old" = "$was" ] || rm -rf "$old";
done;
command=$HOME/.local/bin/moonrise; leads=$(readlink "$command" || :);
case $leads in "$root"/*) rm -f "$command" ;; esac;
[ -e "$command" ] || [ -h "$command" ] ||
    { mkdir -p "$HOME/.local/bin"; ln -s "$root/$0/bin/moonrise" "$command"; };
echo "installed $root/$build"
]=]

local function one_line(script)
    return (script:gsub("%s*\n%s*", " "))
end

local function checked(result, err, what)
    if not result then
        return nil, err
    elseif result.code ~= 0 then
        return nil, mr.error("child", ("%s: %s"):format(what, result.stderr:gsub("%s+$", "")))
    end
    return result.stdout
end

-- The same bytes for the same files, whoever packs them, and whenever.
local function pack()
    local dir, program = mr.executable:match("^(.*)/([^/]+)$")
    local result, err = mr.run({ "tar", "-c", "--format=gnu", "--sort=name", "--mtime=@0",
        "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX",
        "--transform=s,^" .. program:gsub("[%W]", "\\%0") .. "$,bin/moonrise,",
        "--transform=s,^scripts,share/moonrise/scripts,",
        "--transform=s,^policies,share/moonrise/policies,",
        "-C", dir, program, "-C", mr.scripts_dir:gsub("/[^/]+$", ""), "scripts",
        "-C", mr.policies_dir:gsub("/[^/]+$", ""), "policies" }, { timeout_ms = SEND_MS })
    return checked(result, err, "packing this moonrise")
end

--- Packs this moonrise.
---@return {tar: string, sum: string, build: string}? package
---@return Error? err
function M.package()
    local tar, err = pack()
    if not tar then
        return nil, err
    end
    local said
    said, err = mr.run({ "sha256sum" }, { stdin = tar, timeout_ms = SEND_MS })
    said, err = checked(said, err, "the checksum of this moonrise")
    if not said then
        return nil, err
    end
    local sum = said:match("^%x+")
    return { tar = tar, sum = sum, build = mr.version .. "-" .. sum:sub(1, 16) }
end

local function words(script, package)
    return { "sh", "-c", one_line(script), mr.version, package.sum:sub(1, 16), package.sum }
end

local function run(host, argv, options)
    if not agents.is_local(host) then
        options.connect_ms = CONNECT_MS
        return mr.run_on(host, argv, options)
    end
    local result, err = mr.run(argv, options)
    return checked(result, err, "installing here")
end

--- Asks a host which build of this version is there.
---@param host string
---@param package table
---@return "none"|"same"|"other"? word
---@return Error? err
function M.ask(host, package)
    local said, err = run(host, words(ASK, package), { timeout_ms = ASK_MS })
    if not said then
        return nil, err
    end
    -- A login may print a greeting before.
    local build = said:match("([^\n]*)\n?$")
    return build == "none" and "none" or build == package.build and "same" or "other"
end

local function lacking(host, names)
    local packages = {}
    for name in names:gmatch("%S+") do
        packages[#packages + 1] = PACKAGES[name] or name
    end
    local list = table.concat(packages, " ")
    return mr.error("notfound", ("%s lacks shared libraries: %s"):format(host, names),
        { hint = "there, as root: apt-get install " .. list })
end

--- Installs the package on a host and runs it there, before anything leads to it.
---@param host string
---@param package table
---@return string? path
---@return Error? err
function M.install(host, package)
    local said, err = run(host, words(INSTALL, package),
        { stdin = package.tar, timeout_ms = SEND_MS })
    if not said then
        return nil, err
    end
    local word, rest = said:match("([^\n ]*) ([^\n]*)\n$")
    if word == "installed" then
        return rest
    elseif word == "missing" then
        return nil, lacking(host, rest)
    end
    return nil, mr.error("child", ("moonrise does not run on %s: %s"):format(host, rest or said))
end

return M
