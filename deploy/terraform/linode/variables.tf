variable "token" {
  description = "API token of Linode with the scopes Linodes, Firewalls and Domains. Set it as TF_VAR_token."
  type        = string
  sensitive   = true
}

variable "domain" {
  description = "Name that customers use, such as shop.example.org."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?[.])+[a-z]{2,}$", var.domain))
    error_message = "A domain name in lower case, such as shop.example.org."
  }
}

variable "zone" {
  description = "Domain in Linode's DNS Manager that gets the record, such as example.org. Null: DNS is elsewhere."
  type        = string
  default     = null
}

variable "wheel" {
  description = "What pip installs: the address of a wheel, best with its hash (….whl#sha256=…)."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9._~:/?#@=&%+-]+$", var.wheel))
    error_message = "The address of a wheel without spaces and quotes."
  }
}

variable "constraints" {
  description = "Address of constraints.txt of that version. Empty: pip takes the newest versions of the dependencies."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^[A-Za-z0-9._~:/?#@=&%+-]*$", var.constraints))
    error_message = "An address without spaces and quotes."
  }
}

variable "ping_url" {
  description = "Requested every five minutes while all is well, by a monitor that sends mail when that stops."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^[A-Za-z0-9._~:/?#@=&%+-]*$", var.ping_url))
    error_message = "An address without spaces and quotes."
  }
}

variable "ssh_keys" {
  description = "Public SSH keys of those who administer the machine."
  type        = list(string)

  validation {
    condition     = length(var.ssh_keys) > 0
    error_message = "At least one: without a key nobody can enter the machine."
  }
}

variable "ssh_from" {
  description = "Networks that may reach port 22, such as 203.0.113.7/32. Empty: none."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for network in var.ssh_from : can(cidrhost(network, 0))])
    error_message = "Networks in CIDR notation, such as 203.0.113.7/32 or 2001:db8::/64."
  }
}

variable "region" {
  description = "Region of the machine; it must offer the Metadata service."
  type        = string
  default     = "de-fra-2"
}

variable "type" {
  description = "Type of the machine: g6-nanode-1 has 1 GB of memory."
  type        = string
  default     = "g6-nanode-1"
}

variable "image" {
  description = "Debian 12 or Ubuntu 24.04."
  type        = string
  default     = "linode/debian12"
}

variable "backups" {
  description = "Whether Linode backs up the disk, too: it survives what happens to the machine."
  type        = bool
  default     = true
}
