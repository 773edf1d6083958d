--- Certificates for specs: an authority, and what it signs.

local M = {}
local Authority = {}
Authority.__index = Authority

local function openssl(place, ...)
    place:must({ "openssl", ... })
end

--- Makes an authority.
---@param place table
---@param name string
---@return table authority {cert = its certificate's path}
function M.authority(place, name)
    local authority = setmetatable({ place = place, cert = place:path(name .. ".crt"),
        key = place:path(name .. ".key") }, Authority)
    openssl(place, "req", "-x509", "-new", "-nodes", "-newkey", "rsa:2048", "-days", "100",
        "-subj", "/CN=" .. name, "-out", authority.cert, "-keyout", authority.key)
    return authority
end

--- Makes a key and a certificate for it.
---@param name string of the files
---@param names? string a subjectAltName; default "IP:127.0.0.1,DNS:localhost"
---@param days? integer default 100; 0 has expired at once
---@return {cert: string, key: string}
function Authority:sign(name, names, days)
    local place = self.place
    local made = { cert = place:path(name .. ".crt"), key = place:path(name .. ".key") }
    local request = place:path(name .. ".csr")
    local extensions = place:write(name .. ".ext",
        "subjectAltName = " .. (names or "IP:127.0.0.1,DNS:localhost") .. "\n")
    openssl(place, "req", "-new", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=server",
        "-out", request, "-keyout", made.key)
    openssl(place, "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key,
        "-CAcreateserial", "-days", tostring(days or 100), "-extfile", extensions,
        "-out", made.cert)
    place:must({ "chmod", "600", made.key })
    return made
end

return M
